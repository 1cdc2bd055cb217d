"""One wide linear layer in place of several."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kmod.composition.fusion.views import View
from kmod.composition.fusion.views import wides_of

Wide = tuple[dict[str, Any], list[np.ndarray]]


def beside(operations: Sequence[keras.layers.Layer]) -> Wide:
    """Joins layers that read the same tensor.

    Returns:
        Config and weights of the wide layer; its outputs lie side by side.
    """
    weights = zip(*(operation.get_weights() for operation in operations))
    return _config(operations), [np.concatenate(w, axis=-1) for w in weights]


def added_macs(
    operations: Sequence[keras.layers.Dense], inputs: Sequence[View]
) -> int | None:
    """Counts the zeros that `diagonal` puts between Dense layers.

    Args:
        operations: The layers.
        inputs: What each of them reads.

    Returns:
        The count, `None` if it is not known.
    """
    sizes = [size for wide in wides_of(inputs) for size in wide.sizes]
    if None in sizes:
        return None
    kernels = [operation.get_weights()[0] for operation in operations]
    positions = len(kernels[0]) // sum(inputs[0].sizes)
    units = sum(operation.units for operation in operations)
    return positions * sum(sizes) * units - sum(k.size for k in kernels)


def diagonal(
    operations: Sequence[keras.layers.Dense], inputs: Sequence[View]
) -> Wide:
    """Joins Dense layers that read parts of one wide tensor.

    Args:
        operations: The layers.
        inputs: What each of them reads, all in the same wide tensor.

    Returns:
        Config and weights of the layer that reads all of that; its outputs lie
        side by side.
    """
    (wide,) = wides_of(inputs)
    starts = np.cumsum(wide.sizes) - wide.sizes
    columns = []
    for operation, view in zip(operations, inputs):
        kernel = operation.get_weights()[0]
        rows = np.concatenate(
            [starts[i] + np.arange(wide.sizes[i]) for _, i in view.parts]
        )
        positions = len(kernel) // len(rows)
        column = np.zeros((positions, sum(wide.sizes), operation.units))
        column[:, rows] = kernel.reshape(positions, len(rows), -1)
        columns.append(column.reshape(-1, operation.units))
    biases = zip(*(operation.get_weights()[1:] for operation in operations))
    kernel = np.concatenate(columns, axis=-1)
    return _config(operations), [kernel, *map(np.concatenate, biases)]


def _config(operations):
    config = operations[0].get_config()
    size = "units" if "units" in config else "filters"
    return {**config, size: sum(getattr(o, size) for o in operations)}
