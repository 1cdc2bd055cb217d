"""One generation of a class's candidates, by PyGAD."""

import numpy as np

from kmod.errors import UsageError
from kmod.training.cnnsplitter.options import SearchOptions


def check_pygad() -> None:
    """Refuses a search where PyGAD is not installed.

    Raises:
        UsageError: With the command that installs it.
    """
    _pygad()


def next_population(
    population: np.ndarray,
    fitness: np.ndarray,
    options: SearchOptions,
    seed: int,
) -> np.ndarray:
    """Selects, crosses and mutates candidates.

    The fittest go on as they are; the rest are offspring of the better ones,
    cut at one point and with a few genes drawn anew.

    Args:
        population: Array `(size, num_genes)` of 0 and 1.
        fitness: Array `(size,)`.
        options: Shares of parents, elites and mutated genes.
        seed: Integer; the result depends on nothing else drawn.

    Returns:
        uint8 array `(size, num_genes)`.

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

    ga = _pygad().GA(
        num_generations=1,
        initial_population=population.astype(int),
        fitness_func=look_up,
        fitness_batch_size=size,
        num_parents_mating=options.num_parents,
        keep_elitism=min(options.num_elites, size - 1),
        parent_selection_type="sss",
        crossover_type="single_point",
        mutation_type="random",
        mutation_num_genes=max(1, int(options.mutation * num_genes)),
        mutation_by_replacement=True,
        gene_type=int,
        gene_space=[0, 1],
        random_seed=seed,
        suppress_warnings=True,
    )
    ga.run()
    return np.asarray(ga.population).astype("uint8")


def _pygad():
    try:
        import pygad
    except ImportError as error:
        raise UsageError(
            "The genetic search needs PyGAD. Received: "
            f"{error}. Install it with `pip install kmod[ga]`, or choose "
            "another method."
        ) from error
    return pygad
