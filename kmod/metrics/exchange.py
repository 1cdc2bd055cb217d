"""What it costs to exchange one module, before there is another.

Another module of the class is one that is as good, and errs in other images.
"""

import dataclasses

import numpy as np

from kmod.metrics.evaluate import class_figures

# Rank correlation of two modules' scores among images of one class, chosen on
# validation images of benchmarks/dependence.py.
LIKENESS = 0.8
DRAWS = 20
SHARE = 0.5  # Of the confusions that an exchange adds.
ABSENT = -np.inf  # Score of a module that is left out.


@dataclasses.dataclass(frozen=True, eq=False)
class ExchangeCost:
    """What is lost if the module of a class is another; below 0 for a gain.

    Attributes:
        accuracy: Loss of accuracy on all images, 0 to 1.
        others: Loss of accuracy on the images of all other classes.
        f1: Loss of the F1 of the class itself.
        broken: Share of all images that were answered right and no longer
            are, whatever comes right in turn; never below 0.
        confused: Float array `(num_classes,)`: how many more images of the
            class and of each other one are taken for the other of the two, in
            shares of all images.
    """

    accuracy: float
    others: float
    f1: float
    broken: float
    confused: np.ndarray


def exchange_cost(
    scores: np.ndarray,
    labels: np.ndarray,
    class_index: int,
    columns: np.ndarray,
) -> ExchangeCost:
    """Compares answers before and after a class has other scores.

    Args:
        scores: Float array `(n, num_classes)`, the highest is the answer.
        labels: int64 array `(n,)` of class indices.
        class_index: Index of the class.
        columns: Float array `(n,)`, its other scores; or `(draws, n)` of
            several, over which is averaged.
    """
    before = _figures(scores, labels, class_index)
    was_right = scores.argmax(axis=1) == labels
    lost, broken = [], []
    for column in np.atleast_2d(columns):
        changed = np.array(scores)
        changed[:, class_index] = column
        lost.append(before - _figures(changed, labels, class_index))
        is_wrong = changed.argmax(axis=1) != labels
        broken.append(np.mean(was_right & is_wrong))
    accuracy, others, f1, *confused = np.mean(lost, axis=0)
    return ExchangeCost(
        float(accuracy),
        float(others),
        float(f1),
        float(np.mean(broken)),
        -np.array(confused),
    )


def _figures(scores, labels, class_index):
    """Returns accuracy, others', F1 and confusions with every other class."""
    answers, count = scores.argmax(axis=1), scores.shape[1]
    is_right, is_own = answers == labels, labels == class_index
    taken = answers == class_index
    figures = class_figures(
        np.sum(is_right & is_own),
        taken.sum(),
        is_own.sum(),
        is_right.sum(),
        len(labels),
    )
    pairs = np.where(is_own, answers, labels)[(is_own | taken) & ~is_right]
    confused = np.bincount(pairs, minlength=count) / len(labels)
    return np.array(
        [
            is_right.mean(),
            figures.other_classes_accuracy,
            figures.f1,
            *confused,
        ]
    )


def expected_exchange_cost(
    scores: np.ndarray,
    labels: np.ndarray,
    class_index: int,
    *,
    likeness: float = LIKENESS,
    draws: int = DRAWS,
    seed: int = 0,
) -> ExchangeCost:
    """Estimates what it costs to exchange a module for one as good.

    The class's scores are drawn anew: among the images of each true class
    they stay the same numbers, so the module tells its class as well as
    before, but they change places. `likeness` is how much an image's rank
    among them stays, by a Gaussian copula. So it comes to light where other
    modules only answer right because this one errs as they do.

    Args:
        scores: Float array `(n, num_classes)`, the highest is the answer.
        labels: int64 array `(n,)` of class indices.
        class_index: Index of the class.
        likeness: Correlation of old and new ranks, 0 to 1: 0 shuffles the
            images of each class, 1 leaves them.
        draws: Integer, over how many draws is averaged.
        seed: Integer, seed of the draws.

    Reference:

    - Strobl et al., 2008, "Conditional variable importance for random
      forests": values that change places within groups.
    """
    random = np.random.default_rng([seed, class_index])
    own = scores[:, class_index]
    columns = np.tile(own, (draws, 1))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        columns[:, members] = _redrawn(own[members], likeness, draws, random)
    return exchange_cost(scores, labels, class_index, columns)


def worst_confused(confused: np.ndarray, class_index: int) -> np.ndarray:
    """Returns the fewest classes that make half of what is confused more.

    Args:
        confused: Float array `(num_classes,)`, as `ExchangeCost` has it.
        class_index: Index of the class that is exchanged.

    Returns:
        int64 array of class indices, the worst first; at least one.
    """
    more = np.array(confused)
    more[class_index] = -np.inf
    order = np.argsort(-more, kind="stable")
    reached = np.cumsum(np.maximum(more[order], 0))
    return order[: np.searchsorted(reached, SHARE * reached[-1]) + 1]


def _redrawn(values, likeness, draws, random):
    from scipy.stats import norm

    count = len(values)
    order = np.sort(values)
    ranks = values.argsort(kind="stable").argsort(kind="stable")
    place = norm.ppf((ranks + 0.5) / count)
    noise = random.standard_normal((draws, count))
    moved = likeness * place + np.sqrt(1 - likeness**2) * noise
    return order[moved.argsort(axis=1).argsort(axis=1)]
