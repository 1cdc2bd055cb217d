"""One wide linear layer in place of several."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kmod.graph.fusion.views import View
from kmod.graph.fusion.views import wides_of

Wide = tuple[dict[str, Any], list[np.ndarray]]


def beside(operations: Sequence[keras.layers.Layer]) -> Wide:
    """Joins layers that read the same tensor.

    Returns:
        Config and weights of the wide layer; its outputs lie side by side.
    """
    weights = zip(*(operation.get_weights() for operation in operations))
    return _config(operations), [np.concatenate(w, axis=-1) for w in weights]


def is_dense(
    operation: keras.layers.Layer, output_shape: Sequence[int | None]
) -> bool:
    """Tells whether a linear layer does what a Dense layer does.

    Convolutions of size 1 do, of images of one pixel.
    """
    sizes = (*getattr(operation, "kernel_size", ()), *output_shape[1:-1])
    return {1}.issuperset(sizes)


def added_macs(
    operations: Sequence[keras.layers.Layer], inputs: Sequence[View]
) -> int | None:
    """Counts the zeros that `diagonal` puts between layers.

    Args:
        operations: Layers that `is_dense` is true of.
        inputs: What each of them reads.

    Returns:
        The count, `None` if it is not known.
    """
    sizes = [size for wide in wides_of(inputs) for size in wide.sizes]
    if None in sizes:
        return None
    kernels = [_matrix(operation) for operation in operations]
    positions = len(kernels[0]) // sum(inputs[0].sizes)
    units = sum(kernel.shape[1] for kernel in kernels)
    return positions * sum(sizes) * units - sum(k.size for k in kernels)


def diagonal(
    operations: Sequence[keras.layers.Layer], inputs: Sequence[View]
) -> Wide:
    """Joins layers that read parts of one wide tensor.

    Args:
        operations: Layers that `is_dense` is true of.
        inputs: What each of them reads, all in the same wide tensor.

    Returns:
        Config and weights of the layer that reads all of that; its outputs lie
        side by side.
    """
    (wide,) = wides_of(inputs)
    starts = np.cumsum(wide.sizes) - wide.sizes
    columns = []
    for operation, view in zip(operations, inputs):
        kernel = _matrix(operation)
        rows = np.concatenate(
            [starts[i] + np.arange(wide.sizes[i]) for _, i in view.parts]
        )
        positions = len(kernel) // len(rows)
        column = np.zeros((positions, sum(wide.sizes), kernel.shape[1]))
        column[:, rows] = kernel.reshape(positions, len(rows), -1)
        columns.append(column.reshape(-1, kernel.shape[1]))
    biases = zip(*(operation.get_weights()[1:] for operation in operations))
    kernel = np.concatenate(columns, axis=-1)
    ones = operations[0].get_weights()[0].shape[:-2]
    kernel = kernel.reshape(*ones, *kernel.shape)
    return _config(operations), [kernel, *map(np.concatenate, biases)]


def _matrix(operation):
    """Returns a layer's kernel as `(inputs, outputs)`."""
    kernel = operation.get_weights()[0]
    return kernel.reshape(-1, kernel.shape[-1])


def _config(operations):
    config = operations[0].get_config()
    size = "units" if "units" in config else "filters"
    return {**config, size: sum(getattr(o, size) for o in operations)}
