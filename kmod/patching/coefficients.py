"""Fits how a patch combines the module with the weak model."""

import dataclasses
from collections.abc import Callable

import numpy as np

from kmod.errors import UsageError
from kmod.metrics.calibration import folds
from kmod.patching.patch_figures import Scores
from kmod.patching.patch_figures import layer_scores
from kmod.patching.patch_threshold import best_shift
from kmod.spec.model import PatchLayer

# Weights of the squared differences between classes, beside the sum of the
# cross-entropies of all images; features have a spread of 1. The second one is
# of what the modules' scores say of classes other than the target.
REGULARIZATION = 10.0
MODULE_REGULARIZATION = 3.0


def fit_layer(scores: Scores, start: PatchLayer | None = None) -> PatchLayer:
    """Fits the layer of a patch on validation data.

    Multinomial logistic regression on the weak model's log-probabilities, one
    factor and bias for each class, and on the module's log-odds. Differences
    between the classes are held small, so that a few images of each class do.
    The target's bias then moves to where, on images that the layer was not
    fitted on, its F1 is best while neither its recall nor the accuracy on the
    other classes falls; see `best_shift`.

    Args:
        scores: Scores of validation images.
        start: A layer to begin with, fitted on nearly the same images, so
            that it takes less time.

    Returns:
        The `PatchLayer`. Whether it helps is the caller's question; see
        `cross_predictions`.
    """
    layer = _regress(scores, start)
    values = np.empty(scores.logits.shape)
    for fold in folds(scores.labels):
        part = _regress(scores.take(~fold), layer)
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


def _regress(scores, start=None):
    """Returns the layer of the least penalised cross-entropy.

    Args:
        scores: Scores of the images to fit on.
        start: A layer that is near it, from most of these images.
    """
    from scipy import optimize

    spread = max(float(scores.log_probabilities.std()), 1e-6)
    reach = np.maximum(scores.evidence.std(axis=0), 1e-6)
    num_classes, num_modules = scores.logits.shape[1], len(reach)
    weak, modules = scores.log_probabilities / spread, scores.evidence / reach
    is_held = np.ones((num_modules + 1, num_classes))
    is_held[[0, -1], scores.target] = 0
    limits = np.full((num_modules + 2, num_classes), -np.inf)
    limits[0], limits[1, scores.target] = 0, 0
    units = np.array([spread, *reach, 1])[:, None]
    if start is None:
        first = np.zeros_like(limits)
        first[0] = 1
    else:
        rows = [start.weak, start.module, *start.support, start.bias]
        first = np.array(rows) * units
    found = optimize.minimize(
        _loss,
        first.ravel(),
        args=(weak, modules, np.eye(num_classes)[scores.labels], is_held),
        jac=True,
        method="L-BFGS-B",
        tol=1e-5,
        bounds=[(low, None) for low in limits.ravel()],
    )
    rows = found.x.reshape(limits.shape) / units
    weak, module, *support, bias = (tuple(row) for row in rows.tolist())
    return PatchLayer(module, weak, bias, tuple(support))


def _loss(parameters, weak, modules, truth, is_held):
    """Returns the penalised sum of cross-entropies, and its gradient."""
    parameters = parameters.reshape(-1, weak.shape[1])
    factors, slopes, biases = parameters[0], parameters[1:-1], parameters[-1]
    values = factors * weak + modules @ slopes + biases
    sums = np.logaddexp.reduce(values, axis=1, keepdims=True)
    error = np.exp(values - sums) - truth
    gradient = np.concatenate(
        [
            np.sum(error * weak, axis=0, keepdims=True),
            modules.T @ error,
            error.sum(axis=0, keepdims=True),
        ]
    )
    held = np.concatenate(
        [[factors - factors.mean()], is_held * parameters[1:]]
    )
    total = np.sum(sums[:, 0] - np.sum(values * truth, axis=1))
    weights = _weights(len(parameters))
    total += np.sum(weights * held**2) / 2
    return total, (gradient + weights * held).ravel()


def _weights(num_rows):
    weights = np.full((num_rows, 1), REGULARIZATION)
    weights[1:-1] = MODULE_REGULARIZATION
    return weights
