"""Masks, gains, scales and shifts of channels, gathered for each row."""

import numpy as np
from keras import ops


def to_rows(values, num_rows: int):
    """Repeats every image's entry once for each of its rows.

    Args:
        values: Tensor `(batch, ...)`.
        num_rows: Integer, rows per image.

    Returns:
        Tensor `(batch * num_rows, ...)`, the rows of an image in a run.
    """
    return ops.repeat(values, num_rows, axis=0)


def by_row(table, classes, shape):
    """Gathers each row's factors for the channels of one tensor.

    Args:
        table: Tensor `(num_modules, channels)`.
        classes: Integer tensor `(batch, rows)`, or `None` for all modules.
        shape: Shape of one entry's factors, such as `(1, 1, channels)`.

    Returns:
        Tensor `(batch, rows, *shape)`; `batch` is 1 if `classes` is `None`.
    """
    if classes is None:
        return ops.reshape(table, (1, -1, *shape))
    return ops.reshape(
        ops.take(table, classes, axis=0), (-1, classes.shape[1], *shape)
    )


def apply_by_row(function, values, factors, is_by_row: bool):
    """Combines a tensor with factors that differ from row to row.

    Args:
        function: Function of the tensor and the factors, elementwise.
        values: Tensor `(batch * rows, ...)`, or `(batch, ...)` where all rows
            of an image still agree.
        factors: Tuple of tensors `(batch or 1, rows, ...)`.
        is_by_row: Whether `values` has an entry for each row already.

    Returns:
        Tensor `(batch * rows, ...)`.
    """
    shape = tuple(values.shape[1:])
    rows = factors[0].shape[1] if is_by_row else 1
    values = ops.reshape(values, (-1, rows, *shape))
    factors = [ops.cast(f, values.dtype) for f in factors]
    return ops.reshape(function(values, *factors), (-1, *shape))


class _ByChannel:
    """What masks and scale-and-shift have in common: a channel axis."""

    def __init__(self, columns: np.ndarray, axis: int):
        self.columns = columns
        self.axis = axis

    def _shape(self, values):
        shape = [1] * (len(values.shape) - 1)
        shape[self.axis - 1] = len(self.columns)
        return tuple(shape)


class KernelMask(_ByChannel):
    """Multiplies the channels of one tensor by each row's kernel mask.

    A layer that reads the tensor can have a gain for each channel beside it.

    It stands just before a layer that mixes channels, behind normalisation,
    activation and pooling, where zero means the same as absent.

    Args:
        groups: Integer array, the kernel group behind each channel, -1 for
            channels that always stay.
        axis: Channel axis, counted from the batch axis 0.
    """

    def __init__(self, groups, axis):
        super().__init__(groups, axis)

    def __call__(self, values, mask, classes, is_by_row, gain=None):
        kept = ops.ones((mask.shape[0], 1), mask.dtype)
        mask = ops.concatenate([mask, kept], axis=1)
        columns = np.where(self.columns < 0, mask.shape[1] - 1, self.columns)
        table = ops.take(mask, columns, axis=1)
        if gain is not None:
            table = table * gain
        factors = by_row(table, classes, self._shape(values))
        return apply_by_row(ops.multiply, values, (factors,), is_by_row)


class ScaleShift(_ByChannel):
    """Scales and shifts the channels of a layer's output for each row.

    Cutting a module folds both into the layer's own weights.

    Args:
        first: First of the layer's columns in the scale and shift matrices.
        axis: Channel axis, counted from the batch axis 0.
        width: Number of channels.
    """

    def __init__(self, first, axis, width):
        super().__init__(np.arange(first, first + width), axis)

    def __call__(self, values, scale, shift, classes, is_by_row):
        shape = self._shape(values)
        factors = [
            by_row(ops.take(table, self.columns, axis=1), classes, shape)
            for table in (scale, shift)
        ]
        return apply_by_row(
            lambda x, a, b: x * a + b, values, factors, is_by_row
        )
