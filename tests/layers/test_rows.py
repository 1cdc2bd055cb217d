import keras
import numpy as np

from kmod.layers import ClassMasked
from kmod.layers import ClassScaleShift
from kmod.layers import RepeatRows
from kmod.layers import SplitRows
from kmod.layers.rows import apply_by_row
from kmod.layers.rows import rows_of

MASK = np.array(
    [[1, 0, 1], [0, 1, 1]], "float32"
)  # Two modules, three kernels.


def masked(values, kernels, axis=-1, classes=None, gain=None, mask=MASK):
    """What an identity reads behind the masks of two modules."""
    layer = ClassMasked(
        keras.layers.Activation("linear", dtype=values.dtype.name),
        2,
        kernels,
        axis,
        branches=True,
        gain=gain is not None,
        scale_and_shift=False,
    )
    layer.build(values.shape, mask.shape)
    if gain is not None:
        layer.gain.assign(gain)
    if classes is not None:
        classes = keras.ops.convert_to_tensor(classes)
    return layer(values, keras.ops.convert_to_tensor(mask), classes)


def test_rows_of_an_image_stand_in_a_run():
    rows = RepeatRows()(keras.ops.array([1, 2]), MASK[[0, 1, 1]])
    np.testing.assert_array_equal(rows, [1, 1, 1, 2, 2, 2])
    classes = keras.ops.array([[0], [1]])
    rows = RepeatRows()(keras.ops.array([1, 2]), MASK, classes)
    np.testing.assert_array_equal(rows, [1, 2])


def test_rows_get_an_axis_of_their_own():
    rows = np.arange(12, dtype="float16").reshape(6, 2)
    split = SplitRows()(rows, MASK[[0, 1, 1]])
    assert split.dtype == "float32"
    np.testing.assert_array_equal(split[1], [[6, 7], [8, 9], [10, 11]])


def test_all_modules_read_their_columns():
    rows = masked(np.ones((1, 2, 3), "float32"), [2, 0, 0])
    np.testing.assert_array_equal(rows[0], 2 * [[1, 1, 1]])
    np.testing.assert_array_equal(rows[1], 2 * [[1, 0, 0]])


def test_drawn_modules_read_their_columns():
    rows = masked(np.ones((2, 2), "float32"), [0, 1], classes=[[1, 0], [1, 1]])
    np.testing.assert_array_equal(rows, [[0, 1], [1, 0], [0, 1], [0, 1]])


def test_values_without_rows_are_spread():
    factors = rows_of((np.array([[1.0], [2.0], [3.0]]),), None)
    values = np.array([[1.0], [10.0]])
    rows = apply_by_row(np.multiply, values, factors, -1, True)
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3, 10, 20, 30])


def test_values_with_rows_keep_them():
    factors = rows_of((np.array([[1.0], [2.0]]),), None)
    rows = apply_by_row(np.multiply, np.ones((4, 1)), factors, -1, False)
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 1, 2])


def test_channels_that_always_stay():
    rows = masked(np.ones((1, 2, 4), "float32"), [0, -1, 1, 2], axis=2)
    np.testing.assert_array_equal(rows[0], 2 * [[1, 1, 0, 1]])
    np.testing.assert_array_equal(rows[1], 2 * [[0, 1, 1, 1]])


def test_mask_of_channels_in_front():
    values = np.ones((1, 2, 3, 3), "float32")
    rows = masked(values, [0, 1], axis=1, classes=[[1]])
    np.testing.assert_array_equal(rows[0, 0], np.zeros((3, 3)))
    np.testing.assert_array_equal(rows[0, 1], np.ones((3, 3)))


def test_a_gain_goes_with_the_mask():
    gain = np.array([[2, 3, 4], [5, 6, 7]], "float32")
    rows = masked(np.ones((1, 3), "float32"), [0, -1, 2], gain=gain)
    np.testing.assert_array_equal(rows, [[2, 3, 4], [0, 6, 7]])


def test_scale_and_shift_of_each_row():
    adapter = ClassScaleShift(2, branches=True)
    adapter.build((None, 2))
    adapter.scale.assign([[2, 3], [1, 1]])
    adapter.shift.assign([[0.5, -0.5], [0, 1]])
    rows = adapter(np.array([[10.0, 10.0]], "float32"))
    np.testing.assert_array_equal(rows, [[20.5, 29.5], [10, 11]])


def test_factors_take_the_data_type_of_the_values():
    rows = masked(np.ones((1, 2), "float16"), [0, 1])
    assert keras.backend.standardize_dtype(rows.dtype) == "float16"


def test_adam_squares_the_whole_gradient_of_a_module():
    adapter = ClassScaleShift(3, branches=True)
    image, classes = keras.Input((2,)), keras.Input((1,), dtype="int32")
    model = keras.Model([image, classes], adapter(image, classes))
    adam = keras.optimizers.Adam(0.01)
    model.compile(adam, loss="mean_squared_error")
    seen = np.zeros((4, 1), "int32")  # One module sees all four images.
    images = np.ones((4, 2), "float32")
    model.train_on_batch([images, seen], 0 * images)
    for momentum, velocity in zip(adam._momentums, adam._velocities):
        momentum, velocity = np.array(momentum)[0], np.array(velocity)[0]
        # With rates of 0.1 and 0.001 after the first step.
        np.testing.assert_allclose(velocity, momentum**2 / 10, rtol=1e-4)
