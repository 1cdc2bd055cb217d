import keras
import numpy as np
import pytest
from keras import layers

from kmod.modular.cnnsplitter.collaborations import ScoredPopulation
from kmod.modular.cnnsplitter.collaborations import jaccard_distances


def small_source():
    """Two convolutions joined by a residual connection, and one more."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    x = layers.Conv2D(8, 3, padding="same", name="conv_1")(image)
    x = layers.ReLU(name="relu_1")(x)
    y = layers.Conv2D(8, 3, padding="same", name="conv_2")(x)
    x = layers.Add(name="add")([x, layers.ReLU(name="relu_2")(y)])
    x = layers.Conv2D(12, 3, activation="relu", name="conv_3")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


def draw_images():
    """Images of three classes: which third of the rows is bright."""
    draw = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = draw.normal(0, 0.4, (96, 6, 6, 1))
    for third in range(3):
        images[labels == third, 2 * third : 2 * third + 2] += 1
    return images.astype("float32"), labels


@pytest.fixture(scope="session")
def images():
    return draw_images()


@pytest.fixture(scope="session")
def source(images):
    source = small_source()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    source.compile(keras.optimizers.Adam(0.02), loss)
    source.fit(*images, epochs=10, verbose=0)
    return source


@pytest.fixture
def small_population():
    """Draws individuals whose scores tell a little of the classes."""

    def draw(num_classes=3, population=4, num_images=30):
        random = np.random.default_rng(0)
        labels = np.arange(num_images) % num_classes
        shape = (num_classes, population, num_images)
        scores = random.normal(0, 1, shape)
        scores += labels == np.arange(num_classes)[:, None, None]
        masks = random.integers(0, 2, (num_classes, population, 6))
        distances = jaccard_distances(masks, np.ones(6))
        return ScoredPopulation(scores.astype("float32"), distances, labels)

    return draw
