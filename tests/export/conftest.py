import keras
import numpy as np
import pytest

from kmod.composition.scoring import LOG_ODDS_LAYER
from kmod.composition.scoring import build_classifier

CLASS_NAMES = ("no", "é", "a\nb")


def build_model(num_classes=len(CLASS_NAMES), output="probabilities"):
    """A convolution with BatchNormalization, not at its start values."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Conv2D(4, 3)(image)
    norm = keras.layers.BatchNormalization()
    x = keras.layers.Flatten()(keras.layers.ReLU()(norm(x)))
    x = keras.layers.Dense(num_classes, name=LOG_ODDS_LAYER)(x)
    norm.set_weights([w + 0.5 for w in norm.get_weights()])
    if num_classes == 1:
        return keras.Model(image, keras.layers.Activation("sigmoid")(x))
    return build_classifier(image, x, "small", output)


@pytest.fixture
def build():
    return build_model


@pytest.fixture
def class_names():
    return CLASS_NAMES


@pytest.fixture
def model():
    return build_model()


@pytest.fixture
def images():
    draw = np.random.default_rng(0)
    return draw.uniform(0, 1, (5, 6, 6, 1)).astype("float32")
