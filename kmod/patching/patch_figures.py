"""What a weak model and its patches get right of labelled images."""

import dataclasses
import functools

import numpy as np

from kmod.spec.model import PatchLayer


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What the weak model and the module say of labelled images.

    Attributes:
        logits: Float array `(n, num_classes)` of the weak model.
        log_odds: Float array `(n,)` of the module.
        raw: Float array `(n,)` of the module, before its calibration.
        labels: int64 array `(n,)` in the weak model's classes.
        target: Index of the target class.
        support: Float array `(n, num_modules)`, log-odds of the modules that
            support it; `None` for none.
    """

    logits: np.ndarray
    log_odds: np.ndarray
    raw: np.ndarray
    labels: np.ndarray
    target: int
    support: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Scores":
        """Returns the scores of some of the images, by index or mask."""
        return Scores(
            self.logits[rows],
            self.log_odds[rows],
            self.raw[rows],
            self.labels[rows],
            self.target,
            None if self.support is None else self.support[rows],
        )

    @functools.cached_property
    def evidence(self) -> np.ndarray:
        """Log-odds of all modules, the target's first, float64 `(n, k)`."""
        support = [] if self.support is None else [self.support]
        return np.column_stack([self.log_odds, *support]).astype("float64")

    @functools.cached_property
    def is_target(self) -> np.ndarray:
        """Which images show the target class, boolean `(n,)`."""
        return self.labels == self.target

    @functools.cached_property
    def log_probabilities(self) -> np.ndarray:
        """The weak model's, float64 `(n, num_classes)`."""
        logits = self.logits.astype("float64")
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """The weak model's answers, int64 `(n,)`."""
        return self.logits.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a model gets right of the target class and of the others.

    Attributes:
        precision: Right answers among those that name the target.
        recall: Images of the target that were recognised.
        f1: Harmonic mean of the two.
        other_accuracy: Accuracy on images of the other classes.
    """

    precision: float
    recall: float
    f1: float
    other_accuracy: float


def figures_of(predictions: np.ndarray, scores: Scores) -> Figures:
    """Measures answers on the images of the scores."""
    is_target, chosen = scores.is_target, predictions == scores.target
    hits = np.sum(chosen & is_target)
    right = predictions == scores.labels
    return Figures(
        precision=float(hits / max(chosen.sum(), 1)),
        recall=float(hits / max(is_target.sum(), 1)),
        f1=float(2 * hits / max(chosen.sum() + is_target.sum(), 1)),
        other_accuracy=float(right[~is_target].mean()),
    )


def layer_scores(layer: PatchLayer, scores: Scores) -> np.ndarray:
    """Returns the scores of a patch layer before its softmax."""
    return (
        np.asarray(layer.weak) * scores.log_probabilities
        + scores.evidence @ np.array([layer.module, *layer.support])
        + np.asarray(layer.bias)
    )


def layer_predictions(layer: PatchLayer, scores: Scores) -> np.ndarray:
    """Returns the answers of the rule `calibrated`, int64 `(n,)`."""
    return layer_scores(layer, scores).argmax(axis=1)


def raw_predictions(scores: Scores) -> np.ndarray:
    """Returns the answers of the rule `raw`, int64 `(n,)`."""
    return _replaced(np.exp(-np.logaddexp(0, -scores.log_odds)), scores)


def minmax_predictions(
    limits: tuple[float, float], scores: Scores
) -> np.ndarray:
    """Returns the answers of the rule `minmax`, int64 `(n,)`.

    Args:
        limits: Smallest and largest raw score, from `fit_range`.
        scores: Scores of the images.
    """
    low, high = limits
    return _replaced((scores.raw - low) / (high - low), scores)


def _replaced(answers, scores):
    """Puts an answer in the place of the target's probability."""
    probabilities = np.exp(scores.log_probabilities)
    probabilities[:, scores.target] = answers
    return probabilities.argmax(axis=1)
