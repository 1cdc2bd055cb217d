import numpy as np
import pytest

from kmod.metrics.overlap import class_overlap
from kmod.metrics.overlap import kept_masks
from kmod.metrics.overlap import mean_overlap


def test_overlap_by_hand():
    masks = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0]])
    third = 1 / 3
    np.testing.assert_allclose(
        class_overlap(masks), [[1, third, 1], [third, 1, third], [1, third, 1]]
    )


def test_classes_without_kernels_in_common():
    np.testing.assert_array_equal(class_overlap(np.eye(3)), np.eye(3))


def test_kept_kernels_become_masks_by_layer():
    masks = kept_masks([{"a": (0, 2), "b": ()}, {"b": (1,)}], {"a": 3, "b": 2})
    assert {layer: mask.tolist() for layer, mask in masks.items()} == {
        "a": [[1, 0, 1], [0, 0, 0]],
        "b": [[0, 0], [0, 1]],
    }


def test_mean_overlap_is_over_pairs():
    active = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert mean_overlap(active) == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert np.isnan(mean_overlap(active[:1]))
