import keras
import numpy as np
import pytest

from kmod.errors import UnsupportedModelError
from kmod.graph.precision import in_float32


def network(policy):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Rescaling(1 / 255, dtype=policy)(image)
    inner = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, activation="relu", dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
        ]
    )
    x = keras.layers.Flatten(dtype=policy)(inner(x))
    x = keras.layers.Dense(3, activation="softmax", dtype=policy)(x)
    return keras.Model(image, x)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"]
)
def test_copy_answers_alike_in_float32(policy):
    model = network(policy)
    images = np.linspace(0, 255, 2 * 36).reshape(2, 6, 6, 1)
    copy = in_float32(model)
    assert copy is not model
    answers = copy(images)
    assert keras.backend.standardize_dtype(answers.dtype) == "float32"
    assert {weight.dtype for weight in copy.weights} == {"float32"}
    half = keras.ops.cast(model(images), "float32")
    np.testing.assert_allclose(answers, half, atol=0.02)


def test_model_in_float32_is_itself():
    model = network("float32")
    assert in_float32(model) is model


def test_model_that_is_no_graph_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(dtype="float16", name="own")

    with pytest.raises(UnsupportedModelError, match="Save it in float32"):
        in_float32(Own())
