"""First candidates, and the limit on what candidates keep."""

import numpy as np

from kmod.training.cnnsplitter.encoding import Encoding

RATIO_STEPS = (-0.1, 0.0, 0.1)
BIAS = 5.0  # Odds of a layer's first gene against its last are exp(BIAS).


def first_population(
    encoding: Encoding,
    class_index: int,
    keep: np.ndarray,
    size: int,
    retention_target: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws a class's first candidates, important kernels more likely.

    The first candidate keeps the most important genes. Each other one draws,
    for each layer, a keep ratio near the layer's own and as many genes.

    Args:
        encoding: The genes.
        class_index: Integer, the class.
        keep: Integer array `(num_layers,)`, genes that each layer keeps.
        size: Number of candidates.
        retention_target: Share of all kernels that none exceeds.
        rng: What to draw from; give each class its own.

    Returns:
        uint8 array `(size, num_genes)`.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3.2
    """
    population = np.zeros((size, encoding.num_genes), "uint8")
    population[0] = encoding.top(keep)
    for row in population[1:]:
        for layer, total in enumerate(encoding.genes_by_layer):
            ratio = keep[layer] / total + rng.choice(RATIO_STEPS)
            count = int(np.clip(round(total * ratio), 1, total))
            genes = np.flatnonzero(encoding.layers == layer)
            row[rng.choice(genes, count, False, _odds(total))] = 1
    return within_target(
        encoding, class_index, population, retention_target, rng
    )


def _odds(total):
    odds = np.exp(-BIAS * np.arange(total) / total)
    return odds / odds.sum()


def within_target(
    encoding: Encoding,
    class_index: int,
    population: np.ndarray,
    retention_target: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Switches genes off in candidates that keep too many kernels.

    Args:
        encoding: The genes.
        class_index: Integer, the class.
        population: Array `(size, num_genes)` of 0 and 1.
        retention_target: Share of all kernels that none may exceed.
        rng: What to draw from; unimportant genes are more likely to go.

    Returns:
        A population of that kind.
    """
    population = population.copy()
    totals = encoding.genes_by_layer[encoding.layers]
    sizes = encoding.sizes[class_index]
    room = retention_target * (sizes.sum() + encoding.num_fixed)
    room -= encoding.num_fixed - 1e-6
    for row in population:
        luck = rng.exponential(size=len(row))
        # The smallest values of luck / odds are a draw by those odds.
        order = np.argsort(luck / np.exp(BIAS * encoding.ranks / totals))
        order = order[row[order] == 1]
        left = row @ sizes - np.cumsum(sizes[order])
        excess = row @ sizes > room
        row[order[: excess * (1 + np.count_nonzero(left > room))]] = 0
    return population
