"""Turns the scores of modules into the scores of classes."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from kmod.composition.classifier import LOG_ODDS_LAYER
from kmod.composition.classifier import join
from kmod.composition.classifier import line
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.metrics.calibration import fit_platt
from kmod.spec.model import OtherClass

CLASS_SCORES_LAYER = "class_scores"


def score_classes(
    scores: Sequence[Sequence[keras.KerasTensor]], is_last: bool
) -> keras.KerasTensor:
    """Joins the scores of modules to one score for each class.

    The odds of several modules of one class are added. A softmax then gives
    the class just what the modules would get together as classes of their
    own.

    Args:
        scores: For each class, the scores `(batch, 1)` of its modules.
        is_last: Whether nothing else is done to them.

    Returns:
        Tensor `(batch, num_classes)`.
    """
    columns = [_any_of(list(of_class)) for of_class in scores]
    return join(columns, LOG_ODDS_LAYER if is_last else CLASS_SCORES_LAYER)


def apply_lines(
    scores: keras.KerasTensor,
    lines: Sequence[tuple[float, float]],
    is_last: bool,
) -> keras.KerasTensor:
    """Scales and shifts every score by a line of its own.

    Args:
        scores: Tensor `(batch, num_classes)`.
        lines: Scale and shift for each class.
        is_last: Whether nothing else is done to them.
    """
    scales, shifts = (list(values) for values in zip(*lines))
    name = LOG_ODDS_LAYER if is_last else "fitted_scores"
    return line(scores, scales, shifts, name)


def add_other(
    scores: keras.KerasTensor, other: OtherClass
) -> keras.KerasTensor:
    """Adds the class of images that no module claims, as the last one.

    Its score is the log-odds of the threshold on every image, so it is the
    highest if and only if the probability of every class is below that.
    """
    log_odds = math.log(other.threshold) - math.log1p(-other.threshold)
    constant = line(scores[:, :1], 0.0, log_odds, "other_score")
    return join([scores, constant], LOG_ODDS_LAYER)


def fit_lines(
    model: keras.Model, data: LabelledImages, class_names: Sequence[str]
) -> list[tuple[float, float]]:
    """Calibrates every class on a few labelled images (Platt scaling).

    A class whose score says nothing about these images gets a scale of 0, so
    that only how frequent it is counts.

    Args:
        model: Images to `(batch, num_classes)` scores.
        data: Images, labelled in the classes of the model; a label above
            them means none of them.
        class_names: Names of the classes.

    Returns:
        Scale, never below 0, and shift for each class.

    Raises:
        ArtifactError: If there are no images of a class, or of no other.
    """
    check_every_class(data.labels, class_names)
    scores = model.predict(data.images, batch_size=256, verbose=0)
    return [
        line_of(scores[:, index], data.labels == index)
        for index in range(len(class_names))
    ]


def line_of(scores: np.ndarray, is_class: np.ndarray) -> tuple[float, float]:
    """Calibrates one class on labelled images; see `fit_lines`.

    Args:
        scores: Float array `(n,)`.
        is_class: Boolean array `(n,)`, with both values.

    Returns:
        Scale and shift.
    """
    share = float(is_class.mean())
    constant = 0.0, math.log(share) - math.log1p(-share)
    return fit_platt(scores, is_class) or constant


def check_every_class(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Makes sure that there are images of every class and of others.

    Raises:
        ArtifactError: If there are not.
    """
    missing = [
        name
        for index, name in enumerate(class_names)
        if index not in labels or (labels == index).all()
    ]
    if missing:
        raise ArtifactError(
            "To `fit` a calibration takes images of every class, found by its "
            f"name, and of others. Received: none of {missing}. Take data "
            "sets that show them, or the calibration that is stored."
        )


def _any_of(scores):
    if len(scores) == 1:
        return scores[0]
    joined = keras.layers.Concatenate(dtype="float32")(scores)
    return keras.ops.logsumexp(joined, axis=-1, keepdims=True)
