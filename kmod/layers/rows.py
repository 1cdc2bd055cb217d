"""Rows: what modules see an image, and factors that differ from row to row."""

import keras
from keras import ops


def num_rows(kernel_masks, classes) -> int:
    """Returns how many rows an image has.

    Args:
        kernel_masks: Tensor `(num_modules, num_kernels)`.
        classes: Integer tensor `(batch, rows)`, or `None` for all modules.
    """
    return kernel_masks.shape[0] if classes is None else classes.shape[1]


def rows_of(tables, classes) -> list:
    """Returns the rows that images have of tables with a row for each module.

    Args:
        tables: Tensors `(num_modules, channels)`.
        classes: Integer tensor `(batch, rows)`, the module of each row, or
            `None` for all modules in order.

    Returns:
        Tensors `(batch, rows, channels)`; `batch` is 1 for all modules.
    """
    if classes is None:
        return [table[None] for table in tables]
    return [_taken(table, classes) for table in tables]


def _taken(table, classes):
    # Of a variable itself the gradient of `take` would be sparse, and Adam
    # squares what such a gradient has several times for one entry apart.
    table = ops.reshape(table, (*table.shape, 1))
    return ops.squeeze(ops.take(table, classes, axis=0), axis=-1)


def apply_by_row(function, values, factors, axis: int, branches: bool):
    """Combines a tensor's channels with factors that differ from row to row.

    Args:
        function: Function of the tensor and the factors, elementwise.
        values: Tensor `(batch, ...)` if rows branch here, otherwise
            `(batch * rows, ...)`.
        factors: Tensors `(batch, rows, channels)` as `rows_of` returns them.
        axis: Channel axis of `values`.
        branches: Whether all rows of an image still agree in `values`.

    Returns:
        Tensor `(batch * rows, ...)`.
    """
    shape, rows = tuple(values.shape[1:]), factors[0].shape[1]
    axis = axis % (len(shape) + 1)
    channels = [n if i == axis else 1 for i, n in enumerate(shape, 1)]
    values = ops.reshape(values, (-1, 1 if branches else rows, *shape))
    factors = [
        ops.reshape(ops.cast(each, values.dtype), (-1, rows, *channels))
        for each in factors
    ]
    return ops.reshape(function(values, *factors), (-1, *shape))


def add_table(layer: keras.layers.Layer, name: str, shape, initializer: str):
    """Adds a trainable float32 weight to a layer, whatever its policy."""
    return layer.add_weight(
        name=name,
        shape=shape,
        initializer=initializer,
        dtype="float32",
        autocast=False,
    )


@keras.saving.register_keras_serializable(package="kmod")
class ClassScaleShift(keras.layers.Layer):
    """Scales and shifts the channels of a tensor, each row as its module does.

    Cutting a module folds both into the weights of the layer in front.

    Args:
        num_classes: Integer, number of modules.
        axis: Integer, channel axis. Defaults to the last one.
        branches: Boolean, whether rows branch here; see `ClassMasked`.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        inputs: Float tensor `(batch, ...)` or `(batch * rows, ...)`.
        classes: Integer tensor `(batch, rows)`, the module of each row.
            Defaults to all modules in order.

    Output shape:
        `(batch * rows, ...)`.
    """

    def __init__(self, num_classes, axis=-1, branches=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.num_classes = num_classes
        self.axis = axis
        self.branches = branches

    def build(self, input_shape):
        shape = (self.num_classes, input_shape[self.axis])
        self.scale = add_table(self, "scale", shape, "ones")
        self.shift = add_table(self, "shift", shape, "zeros")

    def call(self, inputs, classes=None):
        return apply_by_row(
            lambda x, scale, shift: x * scale + shift,
            inputs,
            rows_of((self.scale.value, self.shift.value), classes),
            self.axis,
            self.branches,
        )

    def compute_output_spec(self, inputs, classes=None):
        return keras.KerasTensor((None, *inputs.shape[1:]), inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "axis": self.axis,
            "branches": self.branches,
        }


@keras.saving.register_keras_serializable(package="kmod")
class RepeatRows(keras.layers.Layer):
    """Repeats every image's entry once for each of its rows.

    Call arguments:
        inputs: Tensor `(batch, ...)`.
        kernel_masks: Tensor `(num_modules, num_kernels)`.
        classes: Integer tensor `(batch, rows)`. Defaults to all modules.

    Output shape:
        `(batch * rows, ...)`, the rows of an image in a run.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs, kernel_masks, classes=None):
        return ops.repeat(inputs, num_rows(kernel_masks, classes), axis=0)

    def compute_output_spec(self, inputs, kernel_masks, classes=None):
        return keras.KerasTensor((None, *inputs.shape[1:]), inputs.dtype)


@keras.saving.register_keras_serializable(package="kmod")
class MaskRows(keras.layers.Layer):
    """Takes the kernel masks of the rows.

    Where there are more modules than rows, all that reads masks does less
    with these.

    Call arguments:
        kernel_masks: Tensor `(num_modules, num_kernels)`.
        classes: Integer tensor `(batch, rows)`. Defaults to all modules.

    Output shape:
        `(batch, rows, num_kernels)`; `batch` is 1 for all modules.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, kernel_masks, classes=None):
        return rows_of((kernel_masks,), classes)[0]

    def compute_output_spec(self, kernel_masks, classes=None):
        shape = (None, num_rows(kernel_masks, classes), kernel_masks.shape[1])
        return keras.KerasTensor(shape, kernel_masks.dtype)


@keras.saving.register_keras_serializable(package="kmod")
class SplitRows(keras.layers.Layer):
    """Gives the rows of an image an axis of their own, in float32.

    Call arguments:
        inputs: Tensor `(batch * rows, ...)`.
        kernel_masks: Tensor `(num_modules, num_kernels)`.
        classes: Integer tensor `(batch, rows)`. Defaults to all modules.

    Output shape:
        `(batch, rows, ...)`.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs, kernel_masks, classes=None):
        shape = (-1, num_rows(kernel_masks, classes), *inputs.shape[1:])
        return ops.reshape(ops.cast(inputs, "float32"), shape)

    def compute_output_spec(self, inputs, kernel_masks, classes=None):
        rows = num_rows(kernel_masks, classes)
        return keras.KerasTensor((None, rows, *inputs.shape[1:]), "float32")
