"""Confidence intervals of figures before and after a change of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

FIGURES = ("precision", "recall", "f1", "other_classes_accuracy")
NUM_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One figure of two models on the same images.

    Attributes:
        before: Of the first model, 0 to 1.
        after: Of the second model.
        before_interval: Lower and upper end of the interval of `before`.
        after_interval: That of `after`.
        gain_interval: That of `after - before`, which is narrower than the
            two tell, because both models answer for the same images.
    """

    before: float
    after: float
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    gain_interval: tuple[float, float]

    @property
    def gain(self) -> float:
        """How much higher the figure is after the change."""
        return self.after - self.before

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return dataclasses.asdict(self) | {"gain": self.gain}


def compare_answers(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    target: int,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compares the answers of two models for one class and for all others.

    The intervals are of a paired bootstrap over images: `NUM_SAMPLES` draws
    of as many images as there are, with replacement.

    Args:
        labels: int64 array `(n,)` of true classes.
        before: int64 array `(n,)`, answers of the first model.
        after: int64 array `(n,)`, answers of the second model.
        target: Index of the class.
        confidence: Share of the draws inside an interval, 0 to 1.
        seed: Integer, seed of the draws.

    Returns:
        A `Comparison` for `precision`, `recall` and `f1` of the class and for
        `other_classes_accuracy`.

    Reference:

    - [Efron, 1979](https://doi.org/10.1214/aos/1176344552)
    """
    kinds, counts = _kinds(labels, before, after, target)
    # Images of one kind change the figures alike, so drawing images is
    # drawing how many there are of each kind.
    draws = np.random.default_rng(seed).multinomial(
        counts.sum(), counts / counts.sum(), NUM_SAMPLES
    )
    tail = 50 * (1 - confidence)

    def interval(values):
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)

    compared = {}
    for name in FIGURES:
        own = [_FIGURES[name](counts, *kinds[m]) for m in (0, 1)]
        drawn = [_FIGURES[name](draws, *kinds[m]) for m in (0, 1)]
        compared[name] = Comparison(
            float(own[0]),
            float(own[1]),
            interval(drawn[0]),
            interval(drawn[1]),
            interval(drawn[1] - drawn[0]),
        )
    return compared


def _kinds(labels, before, after, target):
    """Counts images by what decides the figures.

    Returns:
        For each model three boolean arrays, one entry for each kind: whether
        it shows the target, is taken for it, is answered right; and counts.
    """
    flags = [labels == target]
    for answers in (before, after):
        flags += [answers == target, answers == labels]
    kinds, counts = np.unique(np.stack(flags), axis=1, return_counts=True)
    own, *rest = kinds
    return ((own, *rest[:2]), (own, *rest[2:])), counts


def _precision(counts, own, taken, right):
    return _ratio(counts @ (own & taken), counts @ taken)


def _recall(counts, own, taken, right):
    return _ratio(counts @ (own & taken), counts @ own)


def _f1(counts, own, taken, right):
    return _ratio(2 * (counts @ (own & taken)), counts @ own + counts @ taken)


def _other_accuracy(counts, own, taken, right):
    return _ratio(counts @ (~own & right), counts @ ~own)


def _ratio(numbers, totals):
    return numbers / np.maximum(totals, 1)


_FIGURES: dict[str, Callable] = dict(
    zip(FIGURES, (_precision, _recall, _f1, _other_accuracy))
)
