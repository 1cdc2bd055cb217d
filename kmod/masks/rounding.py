"""Rounds the numbers of kernels that modules keep up."""

import numpy as np

from kmod.graph.kernels import KernelTable
from kmod.masks.placement import Placement


def round_up(
    mask: np.ndarray,
    scores: np.ndarray,
    placement: Placement,
    kernels: KernelTable,
    multiple: int,
) -> np.ndarray:
    """Takes the best removed kernels back until each count is a multiple.

    Processors compute in blocks of channels, so that a layer of 13 kernels can
    take as long as one of 16.

    Args:
        mask: Array of 0 and 1, `(num_classes, num_groups)`.
        scores: Array of that shape, what kernels are worth.
        placement: What masks may remove.
        kernels: The source model's kernels.
        multiple: Integer, at least 1. A layer that has fewer kernels in all
            keeps all of them.

    Returns:
        Array of that shape: for each class and layer the kept kernels are a
        multiple of `multiple`, or all there are.
    """
    mask = np.array(mask)
    for index, layer in enumerate(kernels.layers):
        # Joined kernels are counted where they first come.
        own = np.flatnonzero((placement.home == index) & placement.may_go)
        groups = np.unique(kernels.groups[kernels.ids_of(layer)])
        if not len(own):
            continue
        for row, worth in zip(mask, scores):
            missing = -int(row[groups].sum()) % multiple
            removed = own[row[own] == 0]
            best = removed[np.argsort(-worth[removed], kind="stable")]
            row[best[:missing]] = 1
    return mask
