"""Fits how a patch combines the module with the weak model."""

import dataclasses
import functools

import numpy as np

from kmod.errors import UsageError
from kmod.spec.model import Coefficients

REGULARIZATION = 1.0  # Of scikit-learn's `C`; features are standardised.
# How far, in log-odds, the bias stays from where other classes begin to lose.
# Without it, 10 % of the patches on handwritten digits took some accuracy from
# the others on test images, with it 4 % (`benchmarks/patch_guard.py`).
SAFETY_MARGIN = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What the weak model and the module say of labelled images.

    Attributes:
        logits: Float array `(n, num_classes)` of the weak model.
        log_odds: Float array `(n,)` of the module.
        raw: Float array `(n,)` of the module, before its calibration.
        labels: int64 array `(n,)` in the weak model's classes.
        target: Index of the target class.
    """

    logits: np.ndarray
    log_odds: np.ndarray
    raw: np.ndarray
    labels: np.ndarray
    target: int

    @functools.cached_property
    def is_target(self) -> np.ndarray:
        """Which images show the target class, boolean `(n,)`."""
        return self.labels == self.target

    @functools.cached_property
    def rest(self) -> np.ndarray:
        """The logits with the target's at minus infinity."""
        rest = self.logits.astype("float64")
        rest[:, self.target] = -np.inf
        return rest

    @functools.cached_property
    def weak_log_odds(self) -> np.ndarray:
        """The weak model's log-odds of the target class, `(n,)`."""
        target = self.logits[:, self.target].astype("float64")
        return target - np.logaddexp.reduce(self.rest, axis=1)

    @functools.cached_property
    def best_other(self) -> np.ndarray:
        """Index of the likeliest class that is not the target, `(n,)`."""
        return self.rest.argmax(axis=1)

    @functools.cached_property
    def other_log_probability(self) -> np.ndarray:
        """Log-probability of the best other class among the others, `(n,)`."""
        rest = self.rest
        return rest.max(axis=1) - np.logaddexp.reduce(rest, axis=1)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a model gets right of the target class and of the others."""

    f1: float
    other_accuracy: float


def fit_coefficients(scores: Scores) -> Coefficients:
    """Fits the weights of a patch on validation data.

    Logistic regression of "shows the target class" on both log-odds, neither
    with a negative weight. Its bias is then lowered as far as the other
    classes need to lose no accuracy, to where the target's F1 is best. They
    must not lose any with a bias that is `SAFETY_MARGIN` higher either,
    because what is just right for these images is often too much for others.

    Args:
        scores: Scores of validation images.

    Returns:
        The `Coefficients`. Whether they help is the caller's question; see
        `figures_before` and `figures_after`.
    """
    module, weak, bias = _regress(
        np.stack([scores.log_odds, scores.weak_log_odds], axis=1),
        scores.is_target,
    )
    return _lower_bias(Coefficients(module, weak, bias), scores)


def figures_before(scores: Scores) -> Figures:
    """Measures the weak model alone."""
    predictions = scores.logits.argmax(axis=1)
    return _figures(predictions == scores.target, predictions, scores)


def figures_after(coefficients: Coefficients, scores: Scores) -> Figures:
    """Measures the patched model."""
    is_chosen = _margins(coefficients, scores) < coefficients.bias
    return _figures(is_chosen, scores.best_other, scores)


def fit_range(scores: Scores) -> tuple[float, float]:
    """Returns the smallest and largest raw score on images of the target.

    Raises:
        UsageError: If they are the same.
    """
    raw = scores.raw[scores.is_target]
    if raw.min() == raw.max():
        raise UsageError(
            "The rule `minmax` needs images of the target class with "
            f"different scores. Received: {len(raw)} of score {raw[0]}. Give "
            "more validation images."
        )
    return float(raw.min()), float(raw.max())


def figures_replaced(answers: np.ndarray, scores: Scores) -> Figures:
    """Measures the weak model with the target's probability replaced.

    Args:
        answers: Float array `(n,)`, what it is replaced by.
        scores: Scores of the images.
    """
    logits = scores.logits.astype("float64")
    log_sum = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    replaced = np.exp(logits - log_sum)
    replaced[:, scores.target] = answers
    predictions = replaced.argmax(axis=1)
    return _figures(predictions == scores.target, predictions, scores)


def _regress(features, is_target):
    """Returns two weights that are not negative, and the bias."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-12
    standard = (features - mean) / spread
    weights = np.zeros(2)
    used = [0, 1]
    while used:
        model = LogisticRegression(C=REGULARIZATION)
        model.fit(standard[:, used], is_target)
        fitted = model.coef_[0]
        if (fitted >= 0).all():
            weights[used] = fitted / spread[used]
            break
        used = [i for i, weight in zip(used, fitted) if weight >= 0]
    bias = float(model.intercept_[0] - weights @ mean)
    return float(weights[0]), float(weights[1]), bias


def _lower_bias(coefficients, scores):
    least = figures_before(scores).other_accuracy
    best, best_f1 = None, -1.0
    for bias in _biases(coefficients, scores):
        candidate, raised = (
            dataclasses.replace(coefficients, bias=float(bias + margin))
            for margin in (0.0, SAFETY_MARGIN)
        )
        f1 = figures_after(candidate, scores).f1
        accuracy = figures_after(raised, scores).other_accuracy
        if accuracy >= least and f1 > best_f1:
            best, best_f1 = candidate, f1
    return best


def _biases(coefficients, scores):
    """The fitted bias, then every lower one that changes an answer."""
    margins = np.unique(_margins(coefficients, scores))
    lowest = margins[0] - 1 - SAFETY_MARGIN  # Never takes the target class.
    between = (margins[1:] + margins[:-1]) / 2
    lower = np.sort([lowest, *between, *(between - SAFETY_MARGIN)])
    return [
        coefficients.bias,
        *(bias for bias in reversed(lower) if bias < coefficients.bias),
    ]


def _margins(coefficients, scores):
    """The bias above which an image is taken for the target class, `(n,)`."""
    target = coefficients.module * scores.log_odds
    target = target + coefficients.weak * scores.weak_log_odds
    return scores.other_log_probability - target


def _figures(is_chosen, predictions, scores):
    is_target = scores.is_target
    hits = np.sum(is_chosen & is_target)
    right = ~is_chosen & (predictions == scores.labels)
    return Figures(
        f1=float(2 * hits / max(is_chosen.sum() + is_target.sum(), 1)),
        other_accuracy=float(right[~is_target].mean()),
    )
