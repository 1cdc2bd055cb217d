import numpy as np
import pytest

from kmod.modular.cnnsplitter.encoding import encode
from kmod.modular.cnnsplitter.encoding import gene_layers
from kmod.modular.modular_model import ModularModel
from kmod.modular.placement import Placement


def placement_of(*homes, fixed=()):
    may_go = ~np.isin(np.arange(len(homes)), fixed)
    sizes = np.ones(len(homes), "float32")
    return Placement(may_go, sizes, np.array(homes), [], (), ())


def test_genes_follow_each_class_importance():
    placement = placement_of(0, 0, 1, 1, fixed=[2])
    importance = np.array([[1, 2, 9, 9.0], [2, 1, 9, 9]])
    encoding = encode(importance, placement)
    np.testing.assert_array_equal(encoding.layers, [0, 0, 1])
    np.testing.assert_array_equal(encoding.ranks, [0, 1, 0])
    np.testing.assert_array_equal(
        encoding.gene_of, [[1, 0, -1, 2], [0, 1, -1, 2]]
    )
    top = encoding.top(np.array([1, 1]))
    np.testing.assert_array_equal(top, [1, 0, 1])
    np.testing.assert_array_equal(encoding.masks(0, top[None]), [[0, 1, 1, 1]])
    np.testing.assert_array_equal(encoding.masks(1, top[None]), [[1, 0, 1, 1]])
    assert encoding.retention(0, top[None])[0] == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("groups", "genes", "largest"),
    [
        pytest.param(4, 4, 1, id="no-more-than-groups"),
        pytest.param(64, 10, 7, id="narrow"),
        pytest.param(512, 100, 6, id="wide"),
    ],
)
def test_number_of_genes(groups, genes, largest):
    placement = placement_of(*[0] * groups)
    encoding = encode(np.random.default_rng(0).random((2, groups)), placement)
    assert encoding.num_genes == genes
    assert encoding.sizes.max() == largest


def test_tied_kernels_are_one_gene_everywhere(source):
    modular = ModularModel(source)
    assert [len(g) for g in gene_layers(modular.placement)] == [8, 12]
    importance = np.random.default_rng(0).random((3, 20))
    encoding = encode(importance, modular.placement)
    masks = encoding.masks(1, encoding.top(np.array([3, 5]))[None])
    modular.kernel_masks = np.tile(masks[:, modular.kernels.groups], (3, 1))
    kept = modular.kernels.by_layer(modular.kernel_masks[1])
    assert kept["conv_1"] == kept["conv_2"]
    assert modular.retention_rate == pytest.approx(
        encoding.retention(1, encoding.top(np.array([3, 5]))[None])[0]
    )
