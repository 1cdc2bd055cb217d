import keras
import numpy as np
import pytest

import kmod
from kmod.analysis.explanation_recorder import side_by_side
from kmod.errors import UnsupportedModelError
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model

EXACT = 1e-4


@pytest.fixture
def samples(digits):
    train = digits.train
    rows = [np.flatnonzero(train.labels == label)[:2] for label in (0, 2)]
    return train.take(np.concatenate(rows))


def test_tensorboard_shows_what_the_modules_of_an_epoch_look_at(
    strong, digits, samples, tmp_path
):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    tensor_util = pytest.importorskip("tensorboard.util.tensor_util")
    modular = kmod.ModularModel(strong, retention_target=0.6)
    modular.compile()
    recorder = kmod.ExplanationRecorder(samples, tmp_path / "logs")
    modular.fit(digits.train, epochs=2, callbacks=[recorder], verbose=0)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "logs"), {"tensors": 0}
    )
    events.Reload()
    names = [modular.class_names[label] for label in (0, 2)]
    shown = {f"explanation/{name}" for name in names}
    assert set(events.Tags()["tensors"]) == shown
    epochs = events.Tensors(f"explanation/{names[1]}")
    assert [each.step for each in epochs] == [0, 1]
    width, height, *pictures = tensor_util.make_ndarray(epochs[1].tensor_proto)
    assert (int(width), int(height)) == (16, 8)
    assert len(pictures) == 2 and pictures[0].startswith(b"\x89PNG")


def test_maps_are_those_of_the_modules(strong, samples):
    modular = kmod.ModularModel(strong)
    recorder = kmod.ExplanationRecorder(samples, "logs")
    recorder.set_model(modular)
    own = samples.images[samples.labels == 2]
    found = recorder._explainer(2).explain(own)
    scores = log_odds_model(cut_module(modular, 2)).predict(own, verbose=0)
    np.testing.assert_allclose(found.scores, scores[:, 0], atol=EXACT)
    assert found.is_exact


def test_modules_without_maps_are_refused_before_training(digits, samples):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 8)(image)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(3)(x))
    modular = kmod.ModularModel(model)
    modular.compile()
    ended = []
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: ended.append(epoch)
        ),
        kmod.ExplanationRecorder(samples, "logs"),
    ]
    with pytest.raises(UnsupportedModelError, match="feature maps"):
        modular.fit(digits.train, callbacks=callbacks, verbose=0)
    assert ended == []


def test_labels_of_other_classes_are_refused(strong, digits, samples):
    modular = kmod.ModularModel(strong)
    modular.compile()
    recorder = kmod.ExplanationRecorder((samples.images, [7] * 4), "logs")
    with pytest.raises(ValueError, match="7"):
        modular.fit(digits.train, callbacks=[recorder], verbose=0)


def test_places_for_the_class_are_orange_and_those_against_it_blue():
    images = np.zeros((1, 4, 4, 1))
    maps = np.array([[[2.0, 0.0], [0.0, -2.0]]])
    drawn = side_by_side(images, maps, (0, 1))
    assert drawn.shape == (1, 4, 8, 3)
    assert drawn[:, :, :4].max() == 0  # The image by itself.
    red, _, blue = np.moveaxis(drawn[0, :, 4:].astype(int), -1, 0)
    assert red[0, 0] > blue[0, 0] and blue[3, 3] > red[3, 3]


def test_image_and_map_keep_their_places():
    images = np.zeros((1, 4, 8, 3))
    images[0, 0, 0] = 1
    drawn = side_by_side(images, np.zeros((1, 2, 4)))
    assert drawn[0, 0, 0].tolist() == drawn[0, 0, 8].tolist() == [255] * 3
    assert drawn.sum() == 2 * 3 * 255
