"""Teams of one candidate per class: how good they are together."""

import dataclasses

import numpy as np

from kmod.modular.cnnsplitter.fitness import Weights

CELLS = 2**25  # Comparisons at once, about as many bytes.


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """All candidates of a generation and what is known of them.

    Attributes:
        scores: float32 array `(num_classes, population, num_images)`.
        distances: Array `(num_classes, population, num_classes,
            population)`: Jaccard distance of every two candidates' kernels.
        labels: Integer class indices `(num_images,)`.
    """

    scores: np.ndarray
    distances: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Teams:
    """Some teams for the same classes.

    Attributes:
        classes: Integer array `(num_members,)`.
        members: Integer array `(num_teams, num_members)`, each member's
            number among its class's candidates.
        top: Array `(num_teams, num_images)`, highest score of any member.
        own: Likewise, the score of the image's own class's member; minus
            infinity if another member scores higher or the class is missing.
        fitness: Array `(num_teams,)`.
    """

    classes: np.ndarray
    members: np.ndarray
    top: np.ndarray
    own: np.ndarray
    fitness: np.ndarray


def pair_distances(masks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Measures the Jaccard distance of every two candidates' kernels.

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


def build_teams(
    pool: Pool,
    weights: Weights,
    least_accuracy,
    limits: tuple[int, int],
    rng: np.random.Generator,
) -> Teams:
    """Builds teams for all classes out of teams for fewer and fewer.

    The classes are shuffled; teams of one are joined to teams of two, those
    to teams of four, and so on. At every level only teams within the limits
    go on, so that memory and time are bounded.

    Args:
        pool: The candidates.
        weights: What makes a team fit.
        least_accuracy: Function of an array of classes: the accuracy below
            which a team for those is given up.
        limits: Teams kept at least and at most at each level.
        rng: What to shuffle with.

    Returns:
        Teams for all classes, the fittest first.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3.3
    """
    teams = [
        _singles(pool, index) for index in rng.permutation(len(pool.scores))
    ]
    while len(teams) > 1:
        pairs = zip(teams[::2], teams[1::2])
        joined = [
            _join(pool, left, right, weights, least_accuracy, limits)
            for left, right in pairs
        ]
        teams = joined + (teams[-1:] if len(teams) % 2 else [])
    return teams[0]


def _singles(pool, index):
    scores = pool.scores[index]
    is_own = pool.labels == index
    return Teams(
        np.array([index]),
        np.arange(len(scores))[:, None],
        scores,
        np.where(is_own, scores, -np.inf),
        np.zeros(len(scores)),
    )


def _join(pool, left, right, weights, least_accuracy, limits):
    classes = np.concatenate([left.classes, right.classes])
    num_images = np.count_nonzero(np.isin(pool.labels, classes))
    accuracy = _hits(left, right) / max(num_images, 1)
    distance = _mean_distance(pool, left, right)
    fitness = weights.fitness(accuracy, distance)
    chosen = _survivors(accuracy, fitness, least_accuracy(classes), limits)
    a, b = np.unravel_index(chosen, accuracy.shape)
    return Teams(
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
    """Counts the images that each joined team would get right."""
    hits = np.zeros((len(left.own), len(right.own)), "int64")
    step = max(1, CELLS // right.own.size)
    for start in range(0, len(left.own), step):
        part = slice(start, start + step)
        own, top = left.own[part, None], left.top[part, None]
        hits[part] = np.count_nonzero(own > right.top, axis=-1)
        hits[part] += np.count_nonzero(right.own > top, axis=-1)
    return hits


def _mean_distance(pool, left, right):
    between = np.zeros((len(left.members), len(right.members)))
    for i, one in enumerate(left.classes):
        for j, other in enumerate(right.classes):
            table = pool.distances[one][:, other]
            between += table[np.ix_(left.members[:, i], right.members[:, j])]
    total = between + _inner(pool, left)[:, None] + _inner(pool, right)
    count = len(left.classes) + len(right.classes)
    return total / (count * (count - 1) / 2)


def _inner(pool, teams):
    """Returns the sum of distances between each team's own members."""
    total = np.zeros(len(teams.members))
    for i, one in enumerate(teams.classes):
        for j in range(i):
            table = pool.distances[one][:, teams.classes[j]]
            total += table[teams.members[:, i], teams.members[:, j]]
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
