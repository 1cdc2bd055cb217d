"""Controls: kernels that no search has chosen, to compare with."""

import numpy as np

from kmod.masks.placement import Placement
from kmod.training.cnnsplitter.encoding import gene_layers


def kept_counts(masks: np.ndarray, placement: Placement) -> np.ndarray:
    """Counts the kernel groups that each class keeps in each layer.

    Args:
        masks: Array `(num_classes, num_groups)` of 0 and 1.
        placement: What masks may remove.

    Returns:
        int64 array `(num_classes, num_layers)`.
    """
    layers = gene_layers(placement)
    return np.stack(
        [np.count_nonzero(masks[:, groups], axis=1) for groups in layers],
        axis=1,
    )


def masks_of_top(
    order: np.ndarray, counts: np.ndarray, placement: Placement
) -> np.ndarray:
    """Keeps in each layer the groups that come first.

    Args:
        order: Array `(num_classes, num_groups)`, higher comes first: kernel
            importance, or random numbers.
        counts: What `kept_counts` returns; at least one is kept.
        placement: What masks may remove.

    Returns:
        float32 array `(num_classes, num_groups)` of 0 and 1.
    """
    masks = np.ones(order.shape, "float32")
    for layer, groups in enumerate(gene_layers(placement)):
        for index, row in enumerate(order[:, groups]):
            first = np.argsort(-row, kind="stable")
            count = max(1, counts[index, layer])
            masks[index, groups[first[count:]]] = 0
    return masks
