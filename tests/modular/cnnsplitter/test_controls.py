import numpy as np

from kmod.modular.cnnsplitter.choice import kept_counts
from kmod.modular.cnnsplitter.choice import masks_of_top
from kmod.modular.modular_model import ModularModel


def test_top_of_each_layer_at_the_same_counts(source):
    placement = ModularModel(source).placement
    layers = [np.flatnonzero(placement.home == home) for home in (0, 2)]
    order = np.tile(np.arange(20.0), (3, 1))
    counts = np.array([[1, 2], [8, 12], [0, 3]])
    masks = masks_of_top(order, counts, placement)
    np.testing.assert_array_equal(
        kept_counts(masks, placement), np.maximum(counts, 1)
    )
    assert masks[0, layers[0][-1]] == 1
    assert masks[0, layers[1][-2:]].tolist() == [1, 1]
