import numpy as np

from kmod.metrics.overlap import class_overlap


def test_overlap_by_hand():
    masks = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0]])
    third = 1 / 3
    np.testing.assert_allclose(
        class_overlap(masks), [[1, third, 1], [third, 1, third], [1, third, 1]]
    )


def test_classes_without_kernels_in_common():
    np.testing.assert_array_equal(class_overlap(np.eye(3)), np.eye(3))
