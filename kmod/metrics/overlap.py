"""How much the kernels of different classes overlap."""

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
