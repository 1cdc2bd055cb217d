"""How a class's population begins and goes on, by PyGAD."""

import numpy as np

from kmod.errors import UsageError
from kmod.modular.cnnsplitter.encoding import Encoding
from kmod.modular.cnnsplitter.options import SearchOptions

RATIO_STEPS = (-0.1, 0.0, 0.1)
BIAS = 5.0  # Odds of a layer's first gene against its last are exp(BIAS).


def first_population(
    encoding: Encoding,
    class_index: int,
    keep: np.ndarray,
    options: SearchOptions,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws a class's first individuals, important kernels more likely.

    The first one keeps the most important genes. Each other one draws, for
    each layer, a keep ratio near the layer's own and as many genes.

    Args:
        encoding: The genes.
        class_index: Integer, the class.
        keep: Integer array `(num_layers,)`, genes that each layer keeps.
        options: Size and retention target.
        rng: What to draw from; give each class its own.

    Returns:
        Chromosomes, uint8 array `(size, num_genes)`.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3.2
    """
    population = np.zeros((options.population, encoding.num_genes), "uint8")
    population[0] = encoding.top(keep)
    for row in population[1:]:
        for layer, total in enumerate(encoding.genes_by_layer):
            ratio = keep[layer] / total + rng.choice(RATIO_STEPS)
            count = int(np.clip(round(total * ratio), 1, total))
            genes = np.flatnonzero(encoding.layers == layer)
            odds = np.exp(-BIAS * np.arange(total) / total)
            row[rng.choice(genes, count, False, odds / odds.sum())] = 1
    target = options.retention_target
    return repair(encoding, class_index, population, target, rng)


def next_population(
    encoding: Encoding,
    class_index: int,
    population: np.ndarray,
    fitness: np.ndarray,
    options: SearchOptions,
    rng: np.random.Generator,
) -> np.ndarray:
    """Selects, crosses, mutates and repairs individuals of a class.

    The fittest go on as they are (elitism); the rest are offspring of the
    better ones, crossed at one point and with a few genes drawn anew.

    Args:
        encoding: The genes.
        class_index: Integer, the class.
        population: Chromosomes, `(size, num_genes)` of 0 and 1.
        fitness: Array `(size,)`.
        options: Rates of parents, elites and mutation; retention target.
        rng: What to draw from; the result depends on nothing else drawn.

    Returns:
        Chromosomes, uint8 array `(size, num_genes)`.

    Reference:

    - [PyGAD](https://pygad.readthedocs.io)
    """
    size, num_genes = population.shape
    known = {}
    for row, value in zip(population.astype(int), fitness, strict=True):
        key = row.tobytes()
        known[key] = max(float(value), known.get(key, 0.0))

    def look_up(ga, solutions, indices):
        # PyGAD asks for the offspring's fitness too, which nothing reads.
        rows = np.asarray(solutions, dtype=int)
        return [known.get(row.tobytes(), 0.0) for row in rows]

    ga = import_pygad().GA(
        num_generations=1,
        initial_population=population.astype(int),
        fitness_func=look_up,
        fitness_batch_size=size,
        num_parents_mating=options.num_parents,
        keep_elitism=min(options.num_elites, size - 1),
        parent_selection_type="sss",
        crossover_type="single_point",
        mutation_type="random",
        mutation_num_genes=max(1, int(options.mutation_rate * num_genes)),
        mutation_by_replacement=True,
        gene_type=int,
        gene_space=[0, 1],
        random_seed=int(rng.integers(2**31)),
        suppress_warnings=True,
    )
    ga.run()
    drawn = np.asarray(ga.population).astype("uint8")
    return repair(encoding, class_index, drawn, options.retention_target, rng)


def import_pygad():
    """Returns PyGAD, or tells how to install it."""
    try:
        import pygad
    except ImportError as error:
        raise UsageError(
            "The genetic search needs PyGAD. Received: "
            f"{error}. Install it with `pip install 'kmod[ga]'`, or choose "
            "another method."
        ) from error
    return pygad


def repair(
    encoding: Encoding,
    class_index: int,
    population: np.ndarray,
    retention_target: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Switches genes off in individuals that keep too many kernels.

    Args:
        encoding: The genes.
        class_index: Integer, the class.
        population: Chromosomes, `(size, num_genes)` of 0 and 1.
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
