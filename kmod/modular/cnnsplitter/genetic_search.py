"""The search: generations of candidates, joint over all classes."""

import dataclasses
from typing import Any

import keras
import numpy as np

from kmod.modular.cnnsplitter.encoding import Encoding
from kmod.modular.cnnsplitter.evolution import first_population
from kmod.modular.cnnsplitter.evolution import next_population
from kmod.modular.cnnsplitter.evolution import within_target
from kmod.modular.cnnsplitter.fitness import Weights
from kmod.modular.cnnsplitter.fitness import expected_accuracy
from kmod.modular.cnnsplitter.grading import Grades
from kmod.modular.cnnsplitter.grading import grade
from kmod.modular.cnnsplitter.judges import Judges
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.cnnsplitter.teams import Pool
from kmod.modular.cnnsplitter.teams import build_teams
from kmod.modular.cnnsplitter.teams import pair_distances
from kmod.modular.placement import Placement
from kmod.modular.run_directory import RunDirectory
from kmod.modular.selection import keep_best

STAGE = "generation"


@dataclasses.dataclass(frozen=True, eq=False)
class Genes:
    """What chromosomes of this source model mean.

    Attributes:
        encoding: The genes.
        importance: Array `(num_classes, num_groups)`.
        placement: What masks may remove.
        keep: Integer array `(num_layers,)`: genes that each layer keeps to
            begin with.
    """

    encoding: Encoding
    importance: np.ndarray
    placement: Placement
    keep: np.ndarray

    def masks(self, class_index: int, chromosomes: np.ndarray) -> np.ndarray:
        """Returns masks by kernel group, no layer of them empty."""
        masks = self.encoding.masks(class_index, chromosomes)
        scores = np.tile(self.importance[class_index], (len(masks), 1))
        kept = keep_best(masks, scores, self.placement.families)
        return keras.ops.convert_to_numpy(kept)


@dataclasses.dataclass
class SearchState:
    """A search between two generations.

    Randomness needs no place here: what a generation draws follows from the
    seed, its number and the class.

    Attributes:
        generation: Number of the next generation, from 0.
        population: uint8 array `(num_classes, size, num_genes)`, its
            candidates; the first of each class is of the fittest team.
        known: uint8 array of that shape: candidates scored last.
        scores: float32 array `(num_classes, size, num_images)`: their scores.
        chosen: uint8 array `(num_classes, num_genes)`: best team so far.
        chosen_fitness: Its fitness on the images that choose.
        accuracy: Accuracy of the last generation's fittest team.
        stale: Generations since the choice last changed.
        history: What each generation reached, plain JSON data.
    """

    generation: int
    population: np.ndarray
    known: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    chosen_fitness: float
    accuracy: float
    stale: int
    history: list[dict[str, Any]]

    def save(self, run: RunDirectory) -> None:
        """Writes the state as a checkpoint."""
        data, arrays = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_array = isinstance(value, np.ndarray)
            (arrays if is_array else data)[field.name] = value
        run.save(STAGE, self.generation, data, arrays)

    @classmethod
    def load(cls, run: RunDirectory) -> "SearchState | None":
        """Reads the state that was written last, if there is one."""
        last = run.latest(STAGE)
        return last and cls(**last.data, **last.arrays)


class GeneticSearch:
    """Searches for the kernels of every class at once.

    Each class has a population of its own; a candidate's fitness is that of
    the best team of candidates, one for each class, that it is in.

    Args:
        genes: What chromosomes mean.
        fitness: Images that measure fitness.
        choice: Images that choose among the generations.
        options: How to search.
        seed: Integer; a search is the same for the same seed.
        run: Run that keeps the state. Defaults to none.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3
    """

    def __init__(
        self,
        genes: Genes,
        fitness: Judges,
        choice: Judges,
        options: SearchOptions,
        seed: int,
        run: RunDirectory | None = None,
    ):
        self.genes = genes
        self.fitness, self.choice = fitness, choice
        self.options = options
        self.seed = seed
        self.run_directory = run
        self.num_classes = len(genes.importance)

    def run(self, verbose: int = 1) -> SearchState:
        """Runs generations until the last or none is better for long.

        Args:
            verbose: 1 for a progress bar, 2 for its last line, 0 for none.

        Returns:
            The state at the end; `chosen` is the best team.
        """
        state = self.run_directory and SearchState.load(self.run_directory)
        state = state or self._first_state()
        options = self.options
        bar = keras.utils.Progbar(
            options.generations,
            verbose=verbose,
            stateful_metrics=["fitness", "accuracy", "retention"],
            unit_name="generation",
        )
        while (
            state.generation < options.generations
            and state.stale < options.patience
        ):
            self._step(state)
            if self.run_directory:
                state.save(self.run_directory)
            figures = state.history[-1]
            shown = [(key, figures[key]) for key in bar.stateful_metrics]
            bar.update(state.generation, shown, finalize=False)
        bar.update(state.generation, finalize=True)
        return state

    def masks(self, team: np.ndarray) -> np.ndarray:
        """Returns a team's masks by kernel group.

        Args:
            team: Array `(num_classes, num_genes)`.
        """
        return np.concatenate(
            [self.genes.masks(i, row[None]) for i, row in enumerate(team)]
        )

    def _first_state(self):
        population = np.stack(
            [
                first_population(
                    self.genes.encoding,
                    index,
                    self.genes.keep,
                    self.options.population,
                    self.options.retention_target,
                    self._rng(0, index),
                )
                for index in range(self.num_classes)
            ]
        )
        num_images = len(self.fitness.labels)
        return SearchState(
            generation=0,
            population=population,
            known=population[:, :0],
            scores=np.zeros((self.num_classes, 0, num_images), "float32"),
            chosen=population[:, 0],
            chosen_fitness=-np.inf,
            accuracy=0.0,
            stale=0,
            history=[],
        )

    def _step(self, state):
        """Scores and grades a generation and draws the next."""
        masks = self._score(state)
        pool = Pool(
            state.scores,
            pair_distances(masks, self.genes.placement.sizes),
            self.fitness.labels,
        )
        grades = self._grade(pool, state)
        team = state.population[np.arange(self.num_classes), grades.team]
        state.accuracy = _accuracy(pool, grades.team)
        self._choose(state, team)
        state.history.append(
            {
                "generation": state.generation,
                "fitness": grades.fitness,
                "accuracy": state.accuracy,
                "chosen_fitness": state.chosen_fitness,
                "retention": self._retention(team),
            }
        )
        state.generation += 1
        state.population = self._next(state, grades.of_candidates, team)

    def _score(self, state):
        """Scores the candidates that are not known; returns all masks."""
        masks = np.stack(
            [self.genes.masks(i, p) for i, p in enumerate(state.population)]
        )
        known = {
            (index, row.tobytes()): scores
            for index in range(self.num_classes)
            for row, scores in zip(state.known[index], state.scores[index])
        }
        new = {}
        for index, population in enumerate(state.population):
            for row, mask in zip(population, masks[index]):
                key = (index, row.tobytes())
                if key not in known:
                    new[key] = mask
        if new:
            scores = self.fitness.score(
                np.stack(list(new.values())), np.array([key[0] for key in new])
            )
            known |= dict(zip(new, scores))
        state.known = state.population
        state.scores = np.stack(
            [
                np.stack([known[index, row.tobytes()] for row in population])
                for index, population in enumerate(state.population)
            ]
        )
        return masks

    def _grade(self, pool, state) -> Grades:
        options, source = self.options, self.fitness.source_accuracy
        everything = np.arange(self.num_classes)
        short = max(0.0, source(everything) - state.accuracy)
        weights = Weights(
            options.accuracy_weight + (short if state.generation else 0.0),
            1 - options.accuracy_weight,
        )
        teams = build_teams(
            pool,
            weights,
            lambda classes: source(classes) - options.accuracy_margin,
            (options.spare_teams, options.teams),
            self._rng(1, state.generation),
        )
        return grade(pool, teams, weights)

    def _choose(self, state, team):
        """Keeps the team if it is the best so far on other images."""
        state.stale += 1
        masks = self.masks(team)
        scores = self.choice.score(masks, np.arange(self.num_classes))
        accuracy = expected_accuracy(scores, self.choice.labels)
        distances = pair_distances(masks[:, None], self.genes.placement.sizes)
        pairs = np.triu_indices(self.num_classes, 1)
        weight = self.options.accuracy_weight
        fitness = weight * accuracy
        fitness += (1 - weight) * distances[:, 0, :, 0][pairs].mean()
        if fitness > state.chosen_fitness:
            state.chosen, state.chosen_fitness = team, float(fitness)
            state.stale = 0

    def _next(self, state, fitness, team):
        population = np.empty_like(state.population)
        for index in range(self.num_classes):
            rng = self._rng(2, state.generation, index)
            drawn = next_population(
                state.population[index],
                fitness[index],
                self.options,
                int(rng.integers(2**31)),
            )
            population[index] = within_target(
                self.genes.encoding,
                index,
                drawn,
                self.options.retention_target,
                rng,
            )
        population[:, 0] = team
        return population

    def _retention(self, team):
        kept = self.masks(team) @ self.genes.placement.sizes
        return float(kept.mean() / self.genes.placement.sizes.sum())

    def _rng(self, *purpose):
        return np.random.default_rng([self.seed, *purpose])


def _accuracy(pool, team):
    scores = pool.scores[np.arange(len(team)), team]
    return float(np.mean(scores.argmax(axis=0) == pool.labels))
