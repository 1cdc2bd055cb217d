"""Figures of a class before and after a change of a model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import class_figures
from kmod.metrics.evaluate import evaluate_answers

NUM_SAMPLES = 2000
NUM_OVERALL_SAMPLES = 500  # With a kind for each pair of classes, or more.
ONE_ERROR = 0.6827  # Confidence of an interval of one standard error each way.


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
    flags = [labels == target]
    for answers in (before, after):
        flags += [answers == target, answers == labels]
    (shown, *rest), counts, draws = _drawn(flags, NUM_SAMPLES, seed)
    models = (shown, *rest[:2]), (shown, *rest[2:])
    return _compared(
        [_figures(counts, *model) for model in models],
        [_figures(draws, *model) for model in models],
        confidence,
    )


def compare_overall(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compares the answers of two models over all classes.

    Args are those of `compare_answers`, and so are the intervals.

    Returns:
        A `Comparison` of the `accuracy` and of `macro_f1`, the mean F1 of the
        classes that there are images of.
    """
    kinds, counts, draws = _drawn(
        [labels, before, after], NUM_OVERALL_SAMPLES, seed
    )
    shown = np.unique(labels)
    own, drawn = (
        [
            _overall(images, kinds[0], answers, shown)
            for answers in (kinds[1], kinds[2])
        ]
        for images in (counts[None], draws)
    )
    return _compared(own, drawn, confidence)


def is_as_good(
    simple: Evaluation, answers: np.ndarray, figure: str = "accuracy"
) -> bool:
    """Tells whether a simpler model is within one standard error of another.

    Args:
        simple: Of the simpler model.
        answers: int64 array `(n,)`, answers of the other for the same images.
        figure: What is compared, `"accuracy"` or `"macro_f1"`.

    Returns:
        Whether the other's gain, of a paired bootstrap, is at most one
        standard error.

    Reference:

    - Breiman et al., 1984, "Classification and Regression Trees": the rule of
      one standard error.
    """
    compared = compare_overall(
        simple.labels, simple.answers, answers, confidence=ONE_ERROR
    )
    return compared[figure].gain_interval[0] <= 0


def _drawn(flags, num_samples, seed):
    """Draws images, as counts of images of every kind.

    Images of one kind change the figures alike, so drawing images is drawing
    how many there are of each kind.

    Returns:
        What tells the kinds, how many images there are of each, and how many
        were drawn, `(num_samples, num_kinds)`.
    """
    kinds, counts = np.unique(np.stack(flags), axis=1, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        counts.sum(), counts / counts.sum(), num_samples
    )
    return kinds, counts, draws


def _compared(own, drawn, confidence):
    """Compares figures of two models by name, and those of draws."""
    tail = 50 * (1 - confidence)

    def interval(values):
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)

    return {
        name: Comparison(
            *(float(np.squeeze(figures[name])) for figures in own),
            *(interval(figures[name]) for figures in drawn),
            interval(drawn[1][name] - drawn[0][name]),
        )
        for name in own[0]
    }


def _overall(images, true, answers, shown):
    """Returns the accuracy and the mean F1 of counts of images of each kind."""
    from scipy import sparse

    def by_class(classes, is_counted):
        columns = np.flatnonzero(is_counted & np.isin(classes, shown))
        rows = np.searchsorted(shown, classes[columns])
        size = len(shown), images.shape[1]
        where = np.ones(len(rows)), (rows, columns)
        return (sparse.csr_array(where, size) @ images.T).T

    always = np.ones(len(true), bool)
    hits = by_class(true, true == answers)
    both = by_class(true, always) + by_class(answers, always)
    return {
        "accuracy": hits.sum(axis=1) / images.sum(axis=1),
        "macro_f1": np.mean(2 * hits / np.maximum(both, 1), axis=1),
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
        What `compare_evaluations` returns of the first target, as `patches`
        for every target its `target_class` and `figures`, and as `overall`
        those of `compare_overall`: of each figure what `Comparison` holds.
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
    overall = compare_overall(labels, before, after)
    return {
        **compare_evaluations(*evaluations, targets[0]),
        "patches": patches,
        "overall": {name: each.as_dict() for name, each in overall.items()},
    }
