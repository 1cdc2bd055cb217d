import keras
import numpy as np
import pytest
from keras import layers

from kmod.modular.recipe import Recipe


def small_cnn():
    """Two convolutions of four kernels, a hidden layer of four units."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, padding="same", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(4, 3, strides=2, name="second"),
            layers.Flatten(name="flatten"),
            layers.Dense(4, activation="tanh", name="hidden"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


@pytest.fixture(name="small_cnn")
def small_cnn_fixture():
    keras.utils.set_random_seed(0)
    return small_cnn()


@pytest.fixture
def data():
    """Images of three classes: which third of the rows is bright."""
    generator = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = generator.normal(0, 0.3, (48, 6, 6, 1))
    for third in range(3):
        images[labels == third, 2 * third : 2 * third + 2] += 1
    return images.astype("float32"), labels


@pytest.fixture
def quick():
    """Makes recipes that reach their target in a few steps."""

    def make(**changes):
        rates = {"head_rate": 0.02, "adapt_rate": 0.02, "mask_rate": 0.02}
        return Recipe("quick", **{**rates, **changes})

    return make
