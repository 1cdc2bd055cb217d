import dataclasses

import keras
import numpy as np
import pytest

from kmod.zoo.build import build
from kmod.zoo.train import train_source


class Accuracies(keras.callbacks.Callback):
    """Spoils what Keras measured, so that the first epoch is the best."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_accuracy"] = 1.0 - epoch
        if epoch == 0:
            self.weights = self.model.get_weights()


@pytest.fixture(scope="module")
def few(ten_digits):
    return dataclasses.replace(
        ten_digits,
        train=ten_digits.train.take(np.arange(200)),
        validation=ten_digits.validation.take(np.arange(50)),
    )


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


def test_training_learns_the_digits(model, ten_digits):
    history = train_source(model, ten_digits, epochs=4, verbose=0)
    assert len(history.history["val_accuracy"]) == 4
    test = ten_digits.test
    predictions = model.predict(test.images, verbose=0).argmax(axis=1)
    assert np.mean(predictions == test.labels) > 0.8


def test_best_epoch_is_restored(model, few):
    accuracies = Accuracies()
    train_source(model, few, epochs=2, verbose=0, callbacks=[accuracies])
    for kept, best in zip(model.get_weights(), accuracies.weights):
        np.testing.assert_array_equal(kept, best)


@pytest.mark.parametrize("augment", [False, True])
def test_training_repeats_with_its_seed(model, few, augment):
    start = model.get_weights()
    losses = []
    for seed in (1, 1, 2):
        model.set_weights(start)
        history = train_source(
            model, few, 1, seed=seed, augment=augment, verbose=0
        )
        losses.append(history.history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)


def test_one_step_trains_every_weight_of_a_network_of_the_zoo(few):
    model = build("simcnn", (8, 8, 1), 10, width=0.25)
    before = model.get_weights()
    history = train_source(model, few, 1, batch_size=200, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    for weight, old in zip(model.weights, before, strict=True):
        assert np.isfinite(weight).all()
        assert not np.array_equal(weight, old), weight.path


def test_augmentation_is_of_the_images_not_in_the_model(model, few):
    layers, start = list(model.layers), model.get_weights()
    losses = []
    for augment in (False, True):
        model.set_weights(start)
        history = train_source(model, few, 1, augment=augment, verbose=0)
        losses.append(history.history["loss"][0])
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    assert model.layers == layers
