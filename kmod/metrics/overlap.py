"""How much the kernels of different classes overlap."""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np


def class_overlap(masks: np.ndarray) -> np.ndarray:
    """Measures the overlap of every two classes' kernels.

    Args:
        masks: Array `(num_classes, num_kernels)` of 0 and 1.

    Returns:
        Array `(num_classes, num_classes)` of Jaccard indices, kernels kept in
        both ÷ kernels kept in either: 1 for the same kernels, 0 for none in
        common. The Jaccard distance of the papers is 1 minus it.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3.
    """
    masks = np.asarray(masks, "float64")
    both = masks @ masks.T
    sizes = masks.sum(axis=1)
    either = sizes[:, None] + sizes - both
    return both / np.maximum(either, 1)


def kept_masks(
    kept_kernels: Sequence[Mapping[str, Sequence[int]]],
    counts: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """Writes the kernels that modules keep as masks.

    Args:
        kept_kernels: For each module the indices that it keeps, by layer.
        counts: Number of kernels of every layer.

    Returns:
        For each layer an int64 array `(num_modules, num_kernels)` of 0 and 1.
    """
    masks = {
        layer: np.zeros((len(kept_kernels), count), "int64")
        for layer, count in counts.items()
    }
    for row, kept in enumerate(kept_kernels):
        for layer, indices in kept.items():
            masks[layer][row, list(indices)] = 1
    return masks


def mean_overlap(active: np.ndarray) -> float:
    """Returns the mean overlap of every two different rows.

    Args:
        active: Array `(n, num_kernels)` of 0 and 1.

    Returns:
        Mean of the Jaccard indices of all pairs; not a number for fewer than
        two rows.
    """
    overlap = class_overlap(active)
    pairs = ~np.eye(len(overlap), dtype=bool)
    return float(overlap[pairs].mean()) if pairs.any() else float("nan")
