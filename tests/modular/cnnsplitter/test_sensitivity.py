import keras
import numpy as np
import pytest
from keras import layers

from kmod.errors import UsageError
from kmod.modular.cnnsplitter.encoding import encode
from kmod.modular.cnnsplitter.evaluator import Evaluator
from kmod.modular.cnnsplitter.sensitivity import Sensitivity
from kmod.modular.cnnsplitter.sensitivity import activation_norms
from kmod.modular.cnnsplitter.sensitivity import genes_to_keep
from kmod.modular.cnnsplitter.sensitivity import measure_sensitivity
from kmod.modular.cnnsplitter.sensitivity import top_groups
from kmod.modular.modular_model import ModularModel


@pytest.fixture
def dense():
    """Two hidden units that copy the two pixels, and their logits."""
    image = keras.Input((2,))
    x = layers.Dense(2, activation="relu", name="hidden")(image)
    model = keras.Model(image, layers.Dense(2, name="logits")(x))
    model.set_weights([np.eye(2), np.zeros(2), 5 * np.eye(2), np.zeros(2)])
    return model


def test_norms_are_means_over_sure_images(dense):
    images = np.array([[3, 1], [5, 1], [0.1, 0], [0, 2.0]], "float32")
    labels = np.array([0, 0, 0, 1])
    norms = activation_norms(ModularModel(dense), images, labels)
    # The third image is not sure: its logits are 0.5 and 0.
    np.testing.assert_allclose(norms, [[4, 1], [0, 2]])


def test_class_without_sure_images_counts_its_surest(dense):
    images = np.array([[0.2, 0.1], [0.1, 0.1], [0, 2]], "float32")
    labels = np.array([0, 0, 1])
    norms = activation_norms(ModularModel(dense), images, labels)
    np.testing.assert_allclose(norms[0], [0.2, 0.1], atol=1e-6)


def test_tied_kernels_have_one_norm(source, images):
    modular = ModularModel(source)
    norms = activation_norms(modular, *images)
    assert norms.shape == (3, modular.kernels.num_groups) == (3, 20)
    # A kernel may answer nothing at all, but not all kernels of a class.
    assert np.all(norms >= 0) and norms.any(axis=1).all()


def curves(*accuracy):
    names = tuple(f"conv_{i}" for i in range(len(accuracy)))
    return Sensitivity(names, np.array(accuracy), (0.5, 1.0))


def two_layers(placement):
    return encode(np.tile(np.arange(20.0), (2, 1)), placement)


@pytest.fixture
def placement(source):
    return ModularModel(source).placement


@pytest.mark.parametrize(
    ("fraction", "loss"),
    [(1.0, 0.0), (0.75, 0.1), (0.5, 0.2), (0.25, 0.5)],
    ids=str,
)
def test_loss_lies_on_the_measured_curve(fraction, loss):
    assert curves([0.6, 0.8]).loss(0, fraction) == pytest.approx(loss)


def test_curves_that_fall_are_held():
    assert curves([0.9, 0.8]).loss(0, 0.5) == 0


def test_sensitive_layers_keep_more(placement):
    encoding = two_layers(placement)  # 8 genes of 2, 10 genes of 1 or 2.
    keep = genes_to_keep(curves([0.2, 0.9], [0.9, 0.9]), encoding, 0.83)
    np.testing.assert_array_equal(keep, [8, 5])
    kept = encoding.retention(0, encoding.top(keep)[None])[0]
    assert kept == pytest.approx(23 / 28)


def test_unreachable_target_is_refused(placement):
    with pytest.raises(UsageError, match="must leave a gene in every layer"):
        genes_to_keep(
            curves([0.2, 0.9], [0.9, 0.9]), two_layers(placement), 0.01
        )


def test_accuracy_is_measured_layer_by_layer(source, images):
    modular = ModularModel(source)
    importance = activation_norms(modular, *images)
    evaluator = Evaluator(modular, *images, num_rows=16)
    accuracy = measure_sensitivity(evaluator, importance, modular.placement)
    logits = source.predict(images[0], verbose=0)
    whole = np.mean(logits.argmax(axis=1) == images[1])
    np.testing.assert_allclose(accuracy[:, -1], whole)
    groups = np.flatnonzero(modular.placement.home == 2)
    masks = top_groups(importance, groups, 0.25)
    assert masks[:, groups].sum() == 3 * 3
    scores = evaluator.scores(masks, np.arange(3))
    assert accuracy[1, 1] == pytest.approx(
        np.mean(scores.argmax(axis=0) == images[1])
    )
