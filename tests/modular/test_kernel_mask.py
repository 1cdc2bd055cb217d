import numpy as np

from kmod.modular.kernel_mask import KernelMask
from kmod.modular.kernel_mask import ScaleShift
from kmod.modular.kernel_mask import apply_by_row
from kmod.modular.kernel_mask import by_row
from kmod.modular.kernel_mask import to_rows

MASK = np.array([[1, 0, 1], [0, 1, 1]], "float32")  # Two modules, three groups.


def test_rows_of_an_image_stand_in_a_run():
    np.testing.assert_array_equal(
        to_rows(np.array([1, 2]), 3), [1, 1, 1, 2, 2, 2]
    )


def test_all_modules_read_their_columns():
    factors = by_row(MASK[:, [2, 0, 0]], None, (1, 3))
    np.testing.assert_array_equal(factors, [[[[1, 1, 1]], [[1, 0, 0]]]])


def test_drawn_modules_read_their_columns():
    classes = np.array([[1, 0], [1, 1]])
    factors = by_row(MASK[:, :2], classes, (2,))
    expected = [[[0, 1], [1, 0]], [[0, 1], [0, 1]]]
    np.testing.assert_array_equal(factors, expected)


def test_values_without_rows_are_spread():
    factors = np.array([[[1.0], [2.0], [3.0]]])
    values = apply_by_row(
        np.multiply, np.array([[1.0], [10.0]]), [factors], False
    )
    np.testing.assert_array_equal(values[:, 0], [1, 2, 3, 10, 20, 30])


def test_values_with_rows_keep_them():
    factors = np.array([[[1.0], [2.0]]])
    values = apply_by_row(np.multiply, np.ones((4, 1)), [factors], True)
    np.testing.assert_array_equal(values[:, 0], [1, 2, 1, 2])


def test_mask_of_channels_at_the_end():
    mask = KernelMask(np.array([0, -1, 1, 2]), axis=2)
    values = np.ones((1, 2, 4), "float32")
    rows = mask(values, MASK, None, False)
    assert rows.shape == (2, 2, 4)
    np.testing.assert_array_equal(rows[0], 2 * [[1, 1, 0, 1]])
    np.testing.assert_array_equal(rows[1], 2 * [[0, 1, 1, 1]])


def test_mask_of_channels_in_front():
    mask = KernelMask(np.array([0, 1]), axis=1)
    rows = mask(np.ones((1, 2, 3, 3), "float32"), MASK, np.array([[1]]), False)
    np.testing.assert_array_equal(rows[0, 0], np.zeros((3, 3)))
    np.testing.assert_array_equal(rows[0, 1], np.ones((3, 3)))


def test_a_readers_gain_goes_with_the_mask():
    mask = KernelMask(np.array([0, -1, 2]), axis=1)
    gain = np.array([[2, 3, 4], [5, 6, 7]], "float32")
    rows = mask(np.ones((1, 3), "float32"), MASK, None, False, gain)
    np.testing.assert_array_equal(rows, [[2, 3, 4], [0, 6, 7]])


def test_scale_and_shift_of_a_layers_own_columns():
    adapter = ScaleShift(1, axis=1, width=2)
    scale, shift = np.array([[9.0, 2, 3]]), np.array([[9.0, 0.5, -0.5]])
    rows = adapter(np.array([[10.0, 10.0]]), scale, shift, None, False)
    np.testing.assert_array_equal(rows, [[20.5, 29.5]])


def test_factors_take_the_data_type_of_the_values():
    mask = KernelMask(np.array([0, 1]), axis=1)
    rows = mask(np.ones((1, 2), "float16"), MASK, None, False)
    assert rows.dtype == "float16"
