import keras
import numpy as np
import pytest

SHAPE = (8, 8, 2)


def randomise(model, seed=0):
    """Gives every weight a random value that lets most ReLUs answer."""
    draw = np.random.default_rng(seed)
    values = {
        "moving_variance": lambda shape: draw.uniform(0.3, 1.2, shape),
        "beta": lambda shape: draw.uniform(0.5, 1.5, shape),
    }
    for layer in model.layers:
        layer.set_weights(
            [
                values.get(
                    weight.name, lambda shape: draw.normal(0, 0.4, shape)
                )(weight.shape)
                for weight in layer.weights
            ]
        )
    return model


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(5, *SHAPE)).astype("float32")


@pytest.fixture
def gap_of(images):
    """Returns the largest difference of answers, relative to the largest."""

    def gap_of(model, other):
        answers, others = (np.array(m(images)) for m in (model, other))
        gap = np.abs(answers - others).max()
        return float(gap / max(1.0, np.abs(answers).max()))

    return gap_of


@pytest.fixture
def build():
    """Builds a model from what it does to the image, with random weights."""

    def build(function, shape=SHAPE, seed=0):
        image = keras.Input(shape, name="image")
        return randomise(keras.Model(image, function(image), name="m"), seed)

    return build
