import dataclasses

import keras
import numpy as np
import pytest

from kmod.data.load import load_data
from kmod.zoo.build import build
from kmod.zoo.train import train_source

DATA = load_data("digits")
FEW = dataclasses.replace(
    DATA,
    train=DATA.train.take(np.arange(200)),
    validation=DATA.validation.take(np.arange(50)),
)


class Accuracies(keras.callbacks.Callback):
    """Spoils what Keras measured, so that the first epoch is the best."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_accuracy"] = 1.0 - epoch
        if epoch == 0:
            self.weights = self.model.get_weights()


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def test_training_learns_the_digits(model):
    history = train_source(model, DATA, epochs=4, verbose=0)
    assert len(history.history["val_accuracy"]) == 4
    predictions = model.predict(DATA.test.images, verbose=0).argmax(axis=1)
    assert np.mean(predictions == DATA.test.labels) > 0.8


def test_best_epoch_is_restored(model):
    accuracies = Accuracies()
    train_source(model, FEW, epochs=2, verbose=0, callbacks=[accuracies])
    for kept, best in zip(model.get_weights(), accuracies.weights):
        np.testing.assert_array_equal(kept, best)


@pytest.mark.parametrize("augment", [False, True])
def test_training_repeats_with_its_seed(model, augment):
    start = model.get_weights()
    losses = []
    for seed in (1, 1, 2):
        model.set_weights(start)
        history = train_source(
            model, FEW, 1, seed=seed, augment=augment, verbose=0
        )
        losses.append(history.history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)


def test_one_step_trains_a_network_of_the_zoo():
    model = build("simcnn", (8, 8, 1), 10, width=0.25)
    history = train_source(model, FEW, 1, batch_size=200, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_saved_model_holds_no_augmentation(model):
    before = [layer.name for layer in model.layers]
    train_source(model, FEW, 1, augment=True, verbose=0)
    assert [layer.name for layer in model.layers] == before
