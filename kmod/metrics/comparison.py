"""Figures of a class before and after a change of a model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import class_figures
from kmod.metrics.evaluate import evaluate_answers

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
        A `Comparison` for each of the `ClassFigures`, by name.

    Reference:

    - [Efron, 1979](https://doi.org/10.1214/aos/1176344552)
    """
    # Images of one kind change the figures alike, so drawing images is
    # drawing how many there are of each kind.
    flags = [labels == target]
    for answers in (before, after):
        flags += [answers == target, answers == labels]
    kinds, counts = np.unique(np.stack(flags), axis=1, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        counts.sum(), counts / counts.sum(), NUM_SAMPLES
    )
    tail = 50 * (1 - confidence)

    def interval(values):
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)

    shown, *rest = kinds
    models = (shown, *rest[:2]), (shown, *rest[2:])
    own = [_figures(counts, *model) for model in models]
    drawn = [_figures(draws, *model) for model in models]
    return {
        name: Comparison(
            *(float(figures[name]) for figures in own),
            *(interval(figures[name]) for figures in drawn),
            interval(drawn[1][name] - drawn[0][name]),
        )
        for name in own[0]
    }


def _figures(images, shown, taken, right):
    """Returns the figures by name of counts of images of each kind."""
    figures = class_figures(
        images @ (shown & taken),
        images @ taken,
        images @ shown,
        images @ right,
        images.sum(axis=-1),
    )
    return vars(figures)


def compare_evaluations(
    before: Evaluation, after: Evaluation, target_class: str
) -> dict[str, Any]:
    """Compares two evaluations on the same images as plain data for JSON.

    Args:
        before: Of the first model.
        after: Of the second model.
        target_class: Name of the class.

    Returns:
        Dict of `target_class`, its `precision`, `recall` and `f1` in `before`
        and `after`, and the `accuracy` and `other_classes_accuracy`, each
        before and after.
    """
    index = before.class_names.index(target_class)
    models = {"before": before, "after": after}
    return {
        "target_class": target_class,
        **{when: each.figures_of(index) for when, each in models.items()},
        "other_classes_accuracy": {
            when: float(each.other_classes_accuracy[index])
            for when, each in models.items()
        },
        "accuracy": {when: each.accuracy for when, each in models.items()},
    }


def compare_classes(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    targets: Sequence[str],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Compares the answers of two models for several classes.

    Args:
        labels: int64 array `(n,)`, true class indices of test images.
        before: int64 array `(n,)`, answers of the first model.
        after: int64 array `(n,)`, answers of the second model.
        targets: Names of the classes that were changed.
        class_names: Names of all classes.

    Returns:
        What `compare_evaluations` returns of the first target, and as
        `patches` for every target its `target_class` and `figures`: of each
        figure what `Comparison` holds.
    """
    patches = []
    for target in targets:
        index = list(class_names).index(target)
        compared = compare_answers(labels, before, after, index)
        figures = {name: each.as_dict() for name, each in compared.items()}
        patches.append({"target_class": target, "figures": figures})
    evaluations = (
        evaluate_answers(labels, answers, class_names)
        for answers in (before, after)
    )
    return {**compare_evaluations(*evaluations, targets[0]), "patches": patches}
