import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.modular.cnnsplitter.encoding import encode
from kmod.modular.cnnsplitter.importance import kernel_importance
from kmod.modular.cnnsplitter.judges import Judges
from kmod.modular.cnnsplitter.sensitivity import Sensitivity
from kmod.modular.cnnsplitter.sensitivity import genes_to_keep
from kmod.modular.cnnsplitter.sensitivity import measure_sensitivity
from kmod.modular.cnnsplitter.sensitivity import top_groups
from kmod.modular.modular_model import ModularModel


def curves(*accuracy):
    names = tuple(f"conv_{i}" for i in range(len(accuracy)))
    return Sensitivity(names, (0.5, 1.0), np.array(accuracy))


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
    importance = kernel_importance(modular, *images)
    judges = Judges(modular, *images, num_rows=16)
    sensitivity = measure_sensitivity(
        judges,
        importance,
        modular.placement,
        modular.kernels.layers,
    )
    assert sensitivity.layers == ("conv_1", "conv_3")
    logits = source.predict(images[0], verbose=0)
    whole = np.mean(logits.argmax(axis=1) == images[1])
    np.testing.assert_allclose(sensitivity.accuracy[:, -1], whole)
    groups = np.flatnonzero(modular.placement.home == 2)
    masks = top_groups(importance, groups, 0.25)
    assert masks[:, groups].sum() == 3 * 3
    scores = judges.score(masks, np.arange(3))
    assert sensitivity.accuracy[1, 1] == pytest.approx(
        np.mean(scores.argmax(axis=0) == images[1])
    )
