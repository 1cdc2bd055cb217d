import keras
import numpy as np
import pytest

from kmod.export.answers import ask


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_fused_activations_are_probabilities(images, activation):
    layers = [
        keras.Input((6, 6, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation=activation),
    ]
    assert list(ask(keras.Sequential(layers), images)) == ["probabilities"]


def test_nested_models_count(images, build):
    image = keras.Input((6, 6, 1))
    model = keras.Model(image, build()(image))
    assert list(ask(model, images)) == ["probabilities"]


def test_logits_get_probabilities(images, build):
    answers = ask(build(output="logits"), images)
    assert list(answers) == ["probabilities", "logits"]
    expected = keras.ops.softmax(answers["logits"])
    np.testing.assert_array_equal(answers["probabilities"], expected)


def test_one_score(images, build):
    assert list(ask(build(num_classes=1), images)) == ["score"]
