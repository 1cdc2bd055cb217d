"""Maps add up to scores where that is so, and say where it is not."""

import dataclasses
from functools import partial

import keras
import numpy as np
import pytest

import kmod
from kmod.analysis.explanation import Explanation
from kmod.data.image_data import LabelledImages
from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.modules.cut import log_odds_model

LAYERS = keras.layers


HIDDEN = partial(LAYERS.Dense, 4, activation="relu")


def classifier(*behind):
    """A network of 8x8 images with layers behind its last convolution.

    They are made after the seed is set, since each draws its own.
    """
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = LAYERS.Conv2D(5, 3, strides=2, activation="relu", name="maps")(image)
    for make_layer in behind:
        x = make_layer()(x)
    return keras.Model(image, LAYERS.Dense(3, activation="softmax")(x))


def log_odds_of(module, images):
    model = log_odds_model(module.model)
    return model.predict(images, verbose=0)[:, 0]


def test_map_of_a_module_adds_up_to_its_score(donor, images):
    for name in donor:
        found = kmod.explain(donor[name], images)
        scores = log_odds_of(donor[name], images)
        assert found.is_exact and found.maps.shape == (16, 4, 4)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-6)
        total = found.maps.mean(axis=(1, 2)) + found.bias
        np.testing.assert_allclose(total, scores, rtol=1e-4, atol=1e-4)
        # Control: a map that is a little off does not.
        other = dataclasses.replace(found, maps=1.01 * found.maps)
        assert found.gap < 1e-4 < other.gap


def test_map_is_the_class_activation_map(images):
    model = classifier(LAYERS.GlobalAveragePooling2D)
    kernel, bias = model.layers[-1].get_weights()
    maps = keras.Model(model.input, model.get_layer("maps").output)
    expected = maps.predict(images, verbose=0) @ kernel[:, 2]
    found = kmod.explain(model, images, class_index=2)
    assert found.is_exact
    np.testing.assert_allclose(found.maps, expected, rtol=1e-3, atol=1e-3)
    assert found.bias == pytest.approx(bias[2], abs=1e-6)


@pytest.mark.parametrize(
    ("behind", "is_exact"),
    [
        pytest.param([LAYERS.Flatten], True, id="flat"),
        pytest.param(
            [LAYERS.Flatten, partial(LAYERS.Dense, 4)], True, id="linear-hidden"
        ),
        pytest.param([LAYERS.Flatten, HIDDEN], False, id="hidden"),
        pytest.param([LAYERS.GlobalMaxPooling2D], False, id="maximum"),
    ],
)
def test_exact_is_what_adds_up(images, behind, is_exact):
    found = kmod.explain(classifier(*behind), images, 1)
    assert found.is_exact == is_exact
    assert (found.gap < 1e-3 * np.abs(found.scores).max()) == is_exact


def test_place_is_worth_what_the_score_loses_without_it(images):
    model = classifier(LAYERS.Flatten, HIDDEN)
    hidden = model.layers[-2]
    found = kmod.explain(model, images, 0)
    features = keras.Model(model.input, model.get_layer("maps").output)
    maps = features.predict(images, verbose=0)
    rest = maps.copy()
    rest[:, 2, 1] = 0
    kernel, bias = model.layers[-1].get_weights()
    with_it, without = (
        np.maximum(x.reshape(16, -1) @ hidden.kernel + hidden.bias, 0)
        @ kernel[:, 0]
        for x in (maps, rest)
    )
    np.testing.assert_allclose(
        found.maps[:, 2, 1], 9 * (with_it - without), rtol=1e-3, atol=1e-2
    )


def test_most_and_least_confident():
    scores = np.array([-5.0, 0.5, 3.0, -0.1], "float32")
    found = Explanation("maps", scores, np.zeros((4, 1, 2)), 0.0, True)
    assert found.most_confident(2).tolist() == [2, 1]
    assert found.least_confident(2).tolist() == [3, 1]


def test_labels_are_not_looked_at(donor, images):
    labelled = LabelledImages(images, np.zeros(16, "int64"))
    for given in (labelled, (images, labelled.labels)):
        found = kmod.explain(donor["3"], given)
        assert len(found.maps) == 16


def test_large_maps_are_taken_in_parts(images, monkeypatch):
    model = classifier(LAYERS.GlobalAveragePooling2D)
    whole = kmod.explain(model, images, 0)
    monkeypatch.setattr("kmod.analysis.explanation.MOST_VALUES", 700)
    parts = kmod.explain(model, images, 0)
    np.testing.assert_allclose(parts.maps, whole.maps, atol=1e-3)


def passing_by():
    image = keras.Input((8, 8, 1))
    x = LAYERS.Conv2D(2, 3)(image)
    early = LAYERS.GlobalAveragePooling2D()(x)
    late = LAYERS.GlobalAveragePooling2D()(LAYERS.Conv2D(2, 3)(x))
    x = LAYERS.Concatenate()([early, late])
    return keras.Model(image, LAYERS.Dense(2)(x))


def without_maps():
    image = keras.Input((8, 8, 1))
    x = LAYERS.Flatten()(LAYERS.AveragePooling2D(8)(image))
    return keras.Model(image, LAYERS.Dense(2)(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (passing_by, "part of the score passes the maps of 'conv2d"),
        (without_maps, "which has none. Explain a convolutional network."),
    ],
)
def test_models_without_a_map(build, message, images):
    with pytest.raises(UnsupportedModelError, match=message):
        kmod.explain(build(), images, 0)


@pytest.mark.parametrize("class_index", [None, 3, -1])
def test_class_must_be_the_models(class_index, images):
    model = classifier(LAYERS.GlobalAveragePooling2D)
    with pytest.raises(UsageError, match="0 to 2. Received: class_index="):
        kmod.explain(model, images, class_index)


def test_module_has_one_class(donor, images):
    with pytest.raises(UsageError, match="the module of '3' and class_index=0"):
        kmod.explain(donor["3"], images, 0)


def test_one_image_is_an_array_of_images(donor, images):
    with pytest.raises(UsageError, match=r"Received: shape \(8, 8, 1\)"):
        kmod.explain(donor["3"], images[0])
