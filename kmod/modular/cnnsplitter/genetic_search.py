"""The search: generations of individuals, joint over all classes."""

import dataclasses
import json
from typing import Any

import keras
import numpy as np

from kmod.files import atomic_write
from kmod.files.run_directory import SENSITIVITY_FILE
from kmod.files.run_directory import RunDirectory
from kmod.modular.cnnsplitter.collaborations import FitnessWeights
from kmod.modular.cnnsplitter.collaborations import ScoredPopulation
from kmod.modular.cnnsplitter.collaborations import assign_fitness
from kmod.modular.cnnsplitter.collaborations import build_collaborations
from kmod.modular.cnnsplitter.collaborations import collaboration_fitness
from kmod.modular.cnnsplitter.collaborations import jaccard_distances
from kmod.modular.cnnsplitter.encoding import encode
from kmod.modular.cnnsplitter.encoding import gene_layers
from kmod.modular.cnnsplitter.evaluator import Evaluator
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.cnnsplitter.population import first_population
from kmod.modular.cnnsplitter.population import next_population
from kmod.modular.cnnsplitter.sensitivity import Sensitivity
from kmod.modular.cnnsplitter.sensitivity import activation_norms
from kmod.modular.cnnsplitter.sensitivity import genes_to_keep
from kmod.modular.cnnsplitter.sensitivity import measure_sensitivity
from kmod.modular.modular_model import ModularModel

PREPARATION, GENERATION = "preparation", "generation"


@dataclasses.dataclass
class SearchState:
    """A search between two generations.

    Randomness needs no place here: what a generation draws follows from the
    seed, its number and the class.

    Attributes:
        generation: Number of the next generation, from 0.
        population: uint8 array `(num_classes, size, num_genes)`, its
            chromosomes; the first of each class is of the fittest
            collaboration.
        known: uint8 array of that shape: chromosomes scored last.
        scores: float32 array `(num_classes, size, num_images)`: their scores.
        chosen: uint8 array `(num_classes, num_genes)`: best collaboration so
            far on images that fitness is not measured on.
        chosen_fitness: Its fitness on those.
        stale: Generations since the choice last changed.
        history: What each generation reached, plain JSON data.
    """

    generation: int
    population: np.ndarray
    known: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    chosen_fitness: float
    stale: int
    history: list[dict[str, Any]]

    def save(self, run: RunDirectory) -> None:
        """Writes the state as a checkpoint."""
        data, arrays = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_array = isinstance(value, np.ndarray)
            (arrays if is_array else data)[field.name] = value
        run.save(GENERATION, self.generation, data, arrays)

    @classmethod
    def load(cls, run: RunDirectory) -> "SearchState | None":
        """Reads the state that was written last, if there is one."""
        last = run.latest(GENERATION)
        return last and cls(**last.data, **last.arrays)


class GeneticSearch:
    """Searches for the kernels of every class at once.

    Each class has a population of its own; an individual's fitness is that of
    the best collaboration of individuals, one of each class, that it is in.
    What the search must know first is measured here, or read from a run.

    Args:
        modular: Modular model of the source, which is left as it is; a search
            is the same for the same seed of it.
        images: Validation images `(n, ...)`; some measure fitness, as many
            others choose among the generations.
        labels: Integer class indices `(n,)`.
        options: How to search.
        run: Run that keeps what was reached. Defaults to none.

    Attributes:
        sensitivity: What removing kernels of each layer costs.
        encoding: What chromosomes mean.
        keep: Integer array `(num_layers,)`: genes that each layer keeps to
            begin with.
        evaluator: Images that measure fitness.
        holdout: Images that choose among the generations.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3
    """

    def __init__(
        self,
        modular: ModularModel,
        images: np.ndarray,
        labels: np.ndarray,
        options: SearchOptions,
        run: RunDirectory | None = None,
    ):
        self.options, self.seed = options, modular.seed
        self.run_directory = run
        self.num_classes = modular.num_classes
        order = self._rng(3).permutation(len(labels))
        half = min(options.images, (len(labels) + 1) // 2)
        self.evaluator, self.holdout = (
            Evaluator(modular, images[some], labels[some], num_rows)
            for some, num_rows in (
                (order[:half], 64),
                (order[half : 2 * half], self.num_classes),
            )
        )
        importance, accuracy = self._measure(modular, images, labels)
        layers = gene_layers(modular.placement)
        homes = (modular.placement.home[groups[0]] for groups in layers)
        names = tuple(modular.kernels.layers[home] for home in homes)
        self.sensitivity = Sensitivity(names, accuracy)
        self.encoding = encode(importance, modular.placement)
        self.keep = genes_to_keep(
            self.sensitivity, self.encoding, options.retention_target
        )
        if run:
            measured = {
                "layers": names,
                "fractions": self.sensitivity.fractions,
                "accuracy": accuracy.tolist(),
                "keep": self.layer_table(),
            }
            text = json.dumps(measured, indent=1)
            atomic_write(run.path / SENSITIVITY_FILE, text)

    def _measure(self, modular, images, labels):
        """Returns importance and the accuracy of `Sensitivity`."""
        run = self.run_directory
        last = run and run.latest(PREPARATION)
        if last:
            return last.arrays["importance"], last.arrays["accuracy"]
        importance = activation_norms(
            modular, images, labels, self.options.confidence
        )
        accuracy = measure_sensitivity(
            self.evaluator, importance, modular.placement
        )
        if run:
            arrays = {"importance": importance, "accuracy": accuracy}
            run.save(PREPARATION, 0, {}, arrays)
        return importance, accuracy

    def layer_table(self) -> list[dict]:
        """Lists what each layer keeps to begin with, plain JSON data.

        A layer is sensitive if it keeps more than its share of the genes.
        """
        totals = self.encoding.genes_by_layer
        common = self.keep.sum() / totals.sum()
        return [
            {
                "layer": name,
                "keep_ratio": float(count / total),
                "sensitive": bool(count / total > common),
            }
            for name, count, total in zip(
                self.sensitivity.layers, self.keep, totals, strict=True
            )
        ]

    def run(self, verbose: int = 1) -> SearchState:
        """Runs generations until the last or none is better for long.

        Args:
            verbose: 1 for a progress bar, 2 for its last line, 0 for none.

        Returns:
            The state at the end; `chosen` is the best collaboration.
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

    def masks(self, chromosomes: np.ndarray) -> np.ndarray:
        """Returns a collaboration's masks by kernel group.

        Args:
            chromosomes: Array `(num_classes, num_genes)`.
        """
        return np.concatenate(
            [
                self.encoding.masks(index, row[None])
                for index, row in enumerate(chromosomes)
            ]
        )

    def _first_state(self):
        population = np.stack(
            [
                first_population(
                    self.encoding,
                    index,
                    self.keep,
                    self.options,
                    self._rng(0, index),
                )
                for index in range(self.num_classes)
            ]
        )
        num_images = len(self.evaluator.labels)
        return SearchState(
            generation=0,
            population=population,
            known=population[:, :0],
            scores=np.zeros((self.num_classes, 0, num_images), "float32"),
            chosen=population[:, 0],
            chosen_fitness=-np.inf,
            stale=0,
            history=[],
        )

    def _step(self, state):
        """Measures a generation's fitness and draws the next."""
        population = self._scored(state)
        fitness = self._fitness(population, state)
        classes = np.arange(self.num_classes)
        best = state.population[classes, fitness.best]
        answers = population.scores[classes, fitness.best].argmax(axis=0)
        masks, sizes = self.masks(best), self.encoding.placement.sizes
        self._choose(state, best, masks)
        state.history.append(
            {
                "generation": state.generation,
                "fitness": fitness.of_best,
                "accuracy": float(np.mean(answers == population.labels)),
                "chosen_fitness": state.chosen_fitness,
                "retention": float((masks @ sizes).mean() / sizes.sum()),
            }
        )
        state.population = np.stack(
            [
                next_population(
                    self.encoding,
                    index,
                    state.population[index],
                    fitness.of_individuals[index],
                    self.options,
                    self._rng(2, state.generation + 1, index),
                )
                for index in range(self.num_classes)
            ]
        )
        state.population[:, 0] = best
        state.generation += 1

    def _scored(self, state):
        """Scores the individuals that are not known."""
        masks = np.stack(
            [self.encoding.masks(i, p) for i, p in enumerate(state.population)]
        )
        keys = _keys(state.population)
        known = dict(zip(_keys(state.known), np.concatenate(state.scores)))
        new = {
            key: mask
            for key, mask in zip(keys, np.concatenate(masks))
            if key not in known
        }
        if new:
            scores = self.evaluator.scores(
                np.stack(list(new.values())), np.array([key[0] for key in new])
            )
            known |= dict(zip(new, scores))
        scores = np.stack([known[key] for key in keys])
        state.known = state.population
        state.scores = scores.reshape(*masks.shape[:2], -1)
        return self._of(masks, state.scores, self.evaluator)

    def _of(self, masks, scores, evaluator):
        distances = jaccard_distances(masks, self.encoding.placement.sizes)
        return ScoredPopulation(scores, distances, evaluator.labels)

    def _fitness(self, population, state):
        options, source = self.options, self.evaluator.source_accuracy
        short = 0.0  # Of the source's accuracy, in the generation before.
        if state.history:
            whole = source(np.arange(self.num_classes))
            short = max(0.0, whole - state.history[-1]["accuracy"])
        weights = self._weights(short)
        built = build_collaborations(
            population,
            weights,
            lambda classes: source(classes) - options.accuracy_margin,
            (options.min_collaborations, options.max_collaborations),
            self._rng(1, state.generation),
        )
        return assign_fitness(population, built, weights)

    def _weights(self, short=0.0):
        weight = self.options.accuracy_weight
        return FitnessWeights(weight + short, 1 - weight)

    def _choose(self, state, chromosomes, masks):
        """Keeps a collaboration if it is the best so far on other images."""
        state.stale += 1
        classes = np.arange(self.num_classes)
        scores = self.holdout.scores(masks, classes)
        alone = self._of(masks[:, None], scores[:, None], self.holdout)
        fitness = collaboration_fitness(alone, 0 * classes, self._weights())
        if fitness > state.chosen_fitness:
            state.chosen, state.chosen_fitness = chromosomes, float(fitness)
            state.stale = 0

    def _rng(self, *purpose):
        return np.random.default_rng([self.seed, *purpose])


def _keys(population):
    """Lists class and chromosome of every individual."""
    return [
        (index, row.tobytes())
        for index, rows in enumerate(population)
        for row in rows
    ]
