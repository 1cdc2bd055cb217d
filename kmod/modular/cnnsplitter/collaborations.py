"""Collaborations of one individual per class: how fit they are together."""

import dataclasses
from collections.abc import Callable

import numpy as np

CELLS = 2**25  # Comparisons at once, about as many bytes.
EPSILON = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredPopulation:
    """The individuals of all classes and what is known of them.

    Attributes:
        scores: float32 array `(num_classes, population, num_images)`.
        distances: Array `(num_classes, population, num_classes,
            population)`: Jaccard distance of every two individuals' kernels.
        labels: Integer class indices `(num_images,)`.
    """

    scores: np.ndarray
    distances: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Collaborations:
    """Some collaborations for the same classes.

    Attributes:
        classes: Integer array `(num_collaborators,)`.
        members: Integer array `(num_collaborations, num_collaborators)`, each
            collaborator's number among the individuals of its class.
        top: Array `(num_collaborations, num_images)`, highest score of any
            collaborator.
        own: Likewise, the score of the image's own class's collaborator;
            minus infinity if another one scores higher or the class is
            missing.
        fitness: Array `(num_collaborations,)`.
    """

    classes: np.ndarray
    members: np.ndarray
    top: np.ndarray
    own: np.ndarray
    fitness: np.ndarray


@dataclasses.dataclass(frozen=True)
class FitnessWeights:
    """What makes a collaboration fit.

    Attributes:
        accuracy: Weight of its accuracy, counted or expected.
        distance: Weight of the mean distance between its collaborators.
    """

    accuracy: float
    distance: float

    def fitness(self, accuracy, distance):
        return self.accuracy * accuracy + self.distance * distance


@dataclasses.dataclass(frozen=True, eq=False)
class Fitness:
    """How fit a population is.

    Attributes:
        best: Integer array `(num_classes,)`: members of the fittest
            collaboration.
        of_best: Float, its fitness.
        of_individuals: Array `(num_classes, population)`: fitness of the best
            collaboration that each individual is in.
    """

    best: np.ndarray
    of_best: float
    of_individuals: np.ndarray


def jaccard_distances(masks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Measures the Jaccard distance of every two individuals' kernels.

    Args:
        masks: Array `(num_classes, population, num_groups)` of 0 and 1.
        sizes: Array `(num_groups,)`, kernels in each group.

    Returns:
        Array `(num_classes, population, num_classes, population)`.
    """
    rows = masks.reshape(-1, masks.shape[-1]).astype("float32")
    both = ((rows * sizes) @ rows.T).astype("float64")
    kept = np.diagonal(both)
    either = kept[:, None] + kept - both
    shape = masks.shape[:2]
    return (1 - both / np.maximum(either, 1)).reshape(*shape, *shape)


def build_collaborations(
    population: ScoredPopulation,
    weights: FitnessWeights,
    least_accuracy: Callable[[np.ndarray], float],
    limits: tuple[int, int],
    rng: np.random.Generator,
) -> Collaborations:
    """Builds collaborations of all classes out of those of fewer and fewer.

    The classes are shuffled; single individuals are joined to pairs, those
    to fours, and so on. At every level only collaborations within the limits
    go on, so that memory and time are bounded.

    Args:
        population: The individuals.
        weights: What makes a collaboration fit.
        least_accuracy: Maps an array of classes to the accuracy below which a
            collaboration for those is given up.
        limits: Collaborations kept at least and at most at each level.
        rng: What to shuffle with.

    Returns:
        Collaborations of all classes, the fittest first.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3.3
    """
    parts = [
        _singles(population, index)
        for index in rng.permutation(len(population.scores))
    ]
    while len(parts) > 1:
        joined = [
            _join(population, left, right, weights, least_accuracy, limits)
            for left, right in zip(parts[::2], parts[1::2])
        ]
        parts = joined + (parts[-1:] if len(parts) % 2 else [])
    return parts[0]


def _singles(population, index):
    scores = population.scores[index]
    return Collaborations(
        np.array([index]),
        np.arange(len(scores))[:, None],
        scores,
        np.where(population.labels == index, scores, -np.inf),
        np.zeros(len(scores)),
    )


def _join(population, left, right, weights, least_accuracy, limits):
    classes = np.concatenate([left.classes, right.classes])
    num_images = np.count_nonzero(np.isin(population.labels, classes))
    accuracy = _hits(left, right) / max(num_images, 1)
    distance = _mean_distance(population, left, right)
    fitness = weights.fitness(accuracy, distance)
    chosen = _survivors(accuracy, fitness, least_accuracy(classes), limits)
    a, b = np.unravel_index(chosen, accuracy.shape)
    return Collaborations(
        classes,
        np.concatenate([left.members[a], right.members[b]], axis=1),
        np.maximum(left.top[a], right.top[b]),
        np.maximum(
            _if_above(left.own[a], right.top[b]),
            _if_above(right.own[b], left.top[a]),
        ),
        fitness.ravel()[chosen],
    )


def _hits(left, right):
    """Counts the images that each joined collaboration would get right."""
    hits = np.zeros((len(left.own), len(right.own)), "int64")
    step = max(1, CELLS // right.own.size)
    for start in range(0, len(left.own), step):
        part = slice(start, start + step)
        own, top = left.own[part, None], left.top[part, None]
        hits[part] = np.count_nonzero(own > right.top, axis=-1)
        hits[part] += np.count_nonzero(right.own > top, axis=-1)
    return hits


def _mean_distance(population, left, right):
    between = np.zeros((len(left.members), len(right.members)))
    for i, one in enumerate(left.classes):
        for j, other in enumerate(right.classes):
            table = population.distances[one][:, other]
            between += table[np.ix_(left.members[:, i], right.members[:, j])]
    inner = _inner(population, left)[:, None], _inner(population, right)
    count = len(left.classes) + len(right.classes)
    return (between + inner[0] + inner[1]) / (count * (count - 1) / 2)


def _inner(population, parts):
    """Returns the sum of distances between each one's own collaborators."""
    total = np.zeros(len(parts.members))
    for i, one in enumerate(parts.classes):
        for j in range(i):
            table = population.distances[one][:, parts.classes[j]]
            total += table[parts.members[:, i], parts.members[:, j]]
    return total


def _survivors(accuracy, fitness, least_accuracy, limits):
    least, most = limits
    accuracy, fitness = accuracy.ravel(), fitness.ravel()
    good = np.flatnonzero(accuracy >= least_accuracy)
    if len(good) < least:
        good = np.argsort(-accuracy, kind="stable")[:least]
    return good[np.argsort(-fitness[good], kind="stable")][:most]


def _if_above(own, top):
    return np.where(own > top, own, -np.inf)


def expected_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean probability that modules give to the true classes.

    It tells collaborations apart that get as many images right: it changes
    little by little where the count of right answers jumps, so that some
    hundreds of images are not learned by heart.

    Args:
        scores: Array `(num_classes, num_images)`, one module's for each class,
            on a scale such as the source model's logits.
        labels: Integer class indices `(num_images,)`.
    """
    own = scores[labels, np.arange(len(labels))]
    return float(np.mean(np.exp(own - np.logaddexp.reduce(scores, axis=0))))


def swapped_accuracy(
    scores: np.ndarray, labels: np.ndarray, index: int, new: np.ndarray
) -> np.ndarray:
    """Returns `expected_accuracy` with each of some modules swapped in.

    Those are of the class of that index; `new` holds what they score,
    `(num_individuals, num_images)`.
    """
    others = np.logaddexp.reduce(np.delete(scores, index, axis=0), axis=0)
    own = scores[labels, np.arange(len(labels))]
    own = np.where(labels == index, new, own)
    return np.mean(np.exp(own - np.logaddexp(others, new)), axis=1)


def collaboration_fitness(
    population: ScoredPopulation, members: np.ndarray, weights: FitnessWeights
) -> float:
    """Returns the fitness of one collaboration, by expected accuracy."""
    classes = np.arange(len(members))
    between = _between(population, members)[np.triu_indices(len(members), 1)]
    scores = population.scores[classes, members]
    accuracy = expected_accuracy(scores, population.labels)
    return weights.fitness(accuracy, between.mean())


def assign_fitness(
    population: ScoredPopulation, built: Collaborations, weights: FitnessWeights
) -> Fitness:
    """Finds the fittest collaboration and the fitness of every individual.

    Fitness is by expected accuracy. The fittest of the collaborations built,
    or the last generation's if that is fitter, changes one member at a time
    as long as that helps. The collaborations of an individual are then those
    built that hold it, and the fittest with it in place of its class's
    member.

    Args:
        population: The individuals; each class's first is the member of the
            last generation's fittest collaboration.
        built: Collaborations of all classes that were built of them.
        weights: What makes a collaboration fit.

    Returns:
        The `Fitness`.
    """
    order = np.argsort(built.classes)
    former = np.zeros((1, len(order)), int)
    tried = np.concatenate([former, built.members[:, order]])
    fitness = np.array(
        [collaboration_fitness(population, row, weights) for row in tried]
    )
    best, swaps = _climb(population, tried[fitness.argmax()], weights)
    of_individuals = swaps.copy()
    for index, members in enumerate(tried.T):
        np.maximum.at(of_individuals[index], members, fitness)
    return Fitness(best, float(swaps[0, best[0]]), of_individuals)


def _between(population, members):
    classes = np.arange(len(members))
    return population.distances[
        classes[:, None], members[:, None], classes, members
    ]


def _climb(population, members, weights):
    """Changes members while that helps; returns them and swap fitness."""
    classes = np.arange(len(members))
    swaps = _swap_fitness(population, members, weights)
    for _ in range(swaps.size):  # Ties between scores must not go round.
        index, member = np.unravel_index(swaps.argmax(), swaps.shape)
        if swaps[index, member] <= swaps[classes, members].max() + EPSILON:
            break
        members = members.copy()
        members[index] = member
        swaps = _swap_fitness(population, members, weights)
    return members, swaps


def _swap_fitness(population, members, weights):
    """Returns the fitness with each individual in turn swapped in."""
    classes = np.arange(len(members))
    scores = population.scores[classes, members]
    between = _between(population, members)
    fitness = np.empty(population.scores.shape[:2])
    num_pairs = len(members) * (len(members) - 1) / 2
    for index in classes:
        others = np.delete(classes, index)
        accuracy = swapped_accuracy(
            scores, population.labels, index, population.scores[index]
        )
        distance = between[np.ix_(others, others)].sum() / 2
        distance = distance + population.distances[index][
            :, others, members[others]
        ].sum(axis=1)
        fitness[index] = weights.fitness(accuracy, distance / num_pairs)
    return fitness
