"""Fits how a patch combines the module with the weak model."""

import dataclasses
from collections.abc import Callable

import numpy as np

from kmod.composition.patch_figures import Scores
from kmod.composition.patch_figures import layer_scores
from kmod.composition.patch_threshold import best_shift
from kmod.errors import UsageError
from kmod.spec.model import PatchLayer

FOLDS = 5
# Weight of the squared differences between classes, beside the sum of the
# cross-entropies of all images; features have a spread of 1.
REGULARIZATION = 10.0


def fit_layer(scores: Scores) -> PatchLayer:
    """Fits the layer of a patch on validation data.

    Multinomial logistic regression on the weak model's log-probabilities, one
    factor and bias for each class, and on the module's log-odds. Differences
    between the classes are held small, so that a few images of each class do.
    The target's bias then moves to where, on images that the layer was not
    fitted on, its F1 is best while neither its recall nor the accuracy on the
    other classes falls; see `best_shift`.

    Args:
        scores: Scores of validation images.

    Returns:
        The `PatchLayer`. Whether it helps is the caller's question; see
        `cross_predictions`.
    """
    layer = _regress(scores)
    values = np.empty(scores.logits.shape)
    for fold in folds(scores.labels):
        part = _regress(scores.take(~fold))
        values[fold] = layer_scores(part, scores.take(fold))
    bias = np.array(layer.bias)
    bias[scores.target] += best_shift(values, scores)
    return dataclasses.replace(layer, bias=tuple(bias.tolist()))


def cross_predictions(
    fit: Callable[[Scores], Callable[[Scores], np.ndarray]], scores: Scores
) -> np.ndarray:
    """Answers for every image by a rule that was fitted without it.

    Args:
        fit: Takes the scores to fit on; returns what answers for others.
        scores: Scores of all images.

    Returns:
        int64 array `(n,)`.
    """
    predictions = np.empty(len(scores), "int64")
    for fold in folds(scores.labels):
        predictions[fold] = fit(scores.take(~fold))(scores.take(fold))
    return predictions


def folds(labels: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Splits images in `FOLDS` parts that show all classes alike.

    Returns:
        Boolean arrays `(n,)`, one for each part.
    """
    random = np.random.default_rng(seed)
    order = np.lexsort((random.random(len(labels)), labels))
    number = np.empty(len(labels), "int64")
    number[order] = np.arange(len(labels)) % FOLDS
    return [number == fold for fold in range(FOLDS)]


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


def _regress(scores):
    """Returns the layer of the least penalised cross-entropy."""
    from scipy import optimize

    spread = max(float(scores.log_probabilities.std()), 1e-6)
    reach = max(float(scores.log_odds.std()), 1e-6)
    classes = scores.logits.shape[1]
    is_other = np.arange(classes) != scores.target
    features = scores.log_probabilities / spread, scores.log_odds / reach
    slopes = [(None if other else 0, None) for other in is_other]
    found = optimize.minimize(
        _loss,
        np.concatenate([np.ones(classes), np.zeros(2 * classes)]),
        args=(*features, np.eye(classes)[scores.labels], is_other),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * classes + slopes + [(None, None)] * classes,
    )
    factors, slopes, biases = found.x.reshape(3, classes)
    return PatchLayer(
        module=tuple((slopes / reach).tolist()),
        weak=tuple((factors / spread).tolist()),
        bias=tuple(biases.tolist()),
    )


def _loss(parameters, weak, module, truth, is_other):
    """Returns the penalised sum of cross-entropies, and its gradient."""
    factors, slopes, biases = parameters.reshape(3, -1)
    values = factors * weak + module[:, None] * slopes + biases
    sums = np.logaddexp.reduce(values, axis=1, keepdims=True)
    error = np.exp(values - sums) - truth
    gradient = np.stack([(error * weak).sum(0), error.T @ module, error.sum(0)])
    held = np.stack(
        [factors - factors.mean(), slopes * is_other, biases * is_other]
    )
    total = np.sum(sums[:, 0] - np.sum(values * truth, axis=1))
    total += REGULARIZATION / 2 * np.sum(held**2)
    return total, (gradient + REGULARIZATION * held).ravel()
