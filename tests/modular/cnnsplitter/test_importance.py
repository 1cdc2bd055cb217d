import keras
import numpy as np
import pytest
from keras import layers

from kmod.modular.cnnsplitter.importance import kernel_importance
from kmod.modular.modular_model import ModularModel


@pytest.fixture
def dense():
    """Two hidden units that copy the two pixels, and their logits."""
    image = keras.Input((2,))
    x = layers.Dense(2, activation="relu", name="hidden")(image)
    model = keras.Model(image, layers.Dense(2, name="logits")(x))
    model.set_weights([np.eye(2), np.zeros(2), 5 * np.eye(2), np.zeros(2)])
    return model


def test_importance_is_the_mean_norm_over_sure_images(dense):
    images = np.array([[3, 1], [5, 1], [0.1, 0], [0, 2.0]], "float32")
    labels = np.array([0, 0, 0, 1])
    importance = kernel_importance(ModularModel(dense), images, labels)
    # The third image is not sure: its logits are 0.5 and 0.
    np.testing.assert_allclose(importance, [[4, 1], [0, 2]])


def test_class_without_sure_images_counts_its_surest(dense):
    images = np.array([[0.2, 0.1], [0.1, 0.1], [0, 2]], "float32")
    labels = np.array([0, 0, 1])
    importance = kernel_importance(ModularModel(dense), images, labels)
    np.testing.assert_allclose(importance[0], [0.2, 0.1], atol=1e-6)


def test_tied_kernels_have_one_importance(source, images):
    modular = ModularModel(source)
    importance = kernel_importance(modular, *images)
    assert importance.shape == (3, modular.kernels.num_groups) == (3, 20)
    # A kernel may answer nothing at all, but not all kernels of a class.
    assert np.all(importance >= 0) and importance.any(axis=1).all()
