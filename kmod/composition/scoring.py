"""Turns the scores of modules into the answer of one classifier.

The last layers of every composed and patched model are built here.
"""

import math
import numbers
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from kmod.data.image_data import LabelledImages
from kmod.data.streaming import predict
from kmod.errors import ArtifactError
from kmod.export.savedmodel import PROBABILITIES_LAYER
from kmod.metrics.calibration import Layer
from kmod.metrics.calibration import fit_platt
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import logit
from kmod.metrics.calibration import prior_shifts
from kmod.spec.model import OtherClass

LOG_ODDS_LAYER = "log_odds"


def build_classifier(
    image: keras.KerasTensor,
    log_odds: keras.KerasTensor,
    name: str,
    output: Literal["probabilities", "logits"] = "probabilities",
) -> keras.Model:
    """Builds the model from its input and the scores of its classes.

    Args:
        image: The input.
        log_odds: Output of the layer `log_odds`, `(batch, num_classes)`.
        name: Name of the model.
        output: Whether the model answers with probabilities, or with
            `log_odds` as it is.

    Returns:
        Functional model, images to float32 probabilities or logits.
    """
    if output == "logits":
        return keras.Model(image, log_odds, name=name)
    return keras.Model(image, softmax(log_odds, PROBABILITIES_LAYER), name=name)


def join(columns: list[keras.KerasTensor], name: str) -> keras.KerasTensor:
    """Joins columns of scores to one float32 tensor `(batch, num_classes)`."""
    return keras.layers.Concatenate(name=name, dtype="float32")(columns)


def softmax(log_odds: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Turns log-odds into float32 probabilities."""
    return keras.layers.Softmax(name=name, dtype="float32")(log_odds)


def line(
    x: keras.KerasTensor,
    scale: float | Sequence[float],
    offset: float | Sequence[float],
    name: str,
) -> keras.KerasTensor:
    """Returns `scale * x + offset`, without any weight to train.

    Args:
        x: Tensor `(batch, columns)`.
        scale: A number, or one for each column.
        offset: A number, or one for each column.
        name: Name of the layer.
    """
    scale, offset = (
        values if isinstance(values, numbers.Real) else list(values)
        for values in (scale, offset)
    )
    layer = keras.layers.Rescaling(scale, offset, name=name, dtype="float32")
    return layer(x)


def score_classes(
    scores: Sequence[Sequence[keras.KerasTensor]],
    is_last: bool,
    shifts: Sequence[Sequence[float]] | None = None,
) -> keras.KerasTensor:
    """Joins the scores of modules to one score for each class.

    The odds of several modules of one class are added. A softmax then gives
    the class just what the modules would get together as classes of their
    own.

    Args:
        scores: For each class, the scores `(batch, 1)` of its modules.
        is_last: Whether nothing else is done to them.
        shifts: What is added to each of them. Defaults to nothing.

    Returns:
        Tensor `(batch, num_classes)`.
    """
    shifts = shifts or [[0.0] * len(own) for own in scores]
    columns = [_any_of(list(own), each) for own, each in zip(scores, shifts)]
    name = LOG_ODDS_LAYER if is_last else "class_scores"
    alone = [each[0] if len(each) == 1 else 0.0 for each in shifts]
    if not any(alone):
        return join(columns, name)
    return line(join(columns, "module_scores"), 1.0, alone, name)


def _any_of(scores, shifts):
    if len(scores) == 1:
        return scores[0]
    joined = keras.layers.Concatenate(dtype="float32")(scores)
    if any(shifts):
        joined = keras.layers.Rescaling(1.0, list(shifts), dtype="float32")(
            joined
        )
    return keras.ops.logsumexp(joined, axis=-1, keepdims=True)


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


def apply_layer(scores: keras.KerasTensor, layer: Layer) -> keras.KerasTensor:
    """Weighs the scores of all classes together, by one linear layer.

    Args:
        scores: Tensor `(batch, num_scores)`.
        layer: Weights and biases, see `fit_scores`.
    """
    weights, bias = layer
    dense = keras.layers.Dense(
        len(bias), name=LOG_ODDS_LAYER, trainable=False, dtype="float32"
    )
    log_odds = dense(scores)
    dense.set_weights([weights, bias])
    return log_odds


def add_other(
    scores: keras.KerasTensor, other: OtherClass
) -> keras.KerasTensor:
    """Adds the class of images that no module claims, as the last one.

    Its score is the log-odds of the threshold on every image, so it is the
    highest if and only if the probability of every class is below that.
    """
    constant = line(scores[:, :1], 0.0, logit(other.threshold), "other_score")
    return join([scores, constant], LOG_ODDS_LAYER)


def fit_lines(
    model: keras.Model,
    data: LabelledImages,
    class_names: Sequence[str],
    prior: str | Mapping[str, float] | None = None,
) -> list[tuple[float, float]]:
    """Calibrates every class on a few labelled images (Platt scaling).

    A class whose score says nothing about these images gets a scale of 0, so
    that only how frequent it is counts.

    Args:
        model: Images to `(batch, num_classes)` scores.
        data: Images, labelled in the classes of the model; a label above
            them means none of them.
        class_names: Names of the classes.
        prior: How frequent they count as; see `Scores`. Defaults to as
            frequent as in the data.

    Returns:
        Scale, never below 0, and shift for each class.

    Raises:
        ArtifactError: If there are no images of a class, or of no other.
    """
    _check_every_class(data.labels, class_names)
    scores = predict(model, data.images)
    lines = (
        line_of(scores[:, index], data.labels == index)
        for index in range(len(class_names))
    )
    shifts = _shifts(data.labels, class_names, prior, logit)
    return [(scale, old + new) for (scale, old), new in zip(lines, shifts)]


def _shifts(labels, class_names, prior, score_of):
    """Brings scores fitted on images to other frequencies of the classes."""
    if prior in (None, "calibrated"):
        return [0.0] * len(class_names)
    counts = np.bincount(labels, minlength=len(class_names))
    shares = (counts[: len(class_names)] / len(labels)).tolist()
    wanted = None
    if prior != "even":
        wanted = [prior[name] for name in class_names]
    return prior_shifts(shares, wanted, score_of)


def line_of(scores: np.ndarray, is_class: np.ndarray) -> tuple[float, float]:
    """Calibrates one class on labelled images; see `fit_lines`.

    Args:
        scores: Float array `(n,)`.
        is_class: Boolean array `(n,)`, with both values.

    Returns:
        Scale and shift.
    """
    constant = 0.0, logit(float(is_class.mean()))
    return fit_platt(scores, is_class) or constant


def fit_joint(
    model: keras.Model,
    data: LabelledImages,
    class_names: Sequence[str],
    prior: str | Mapping[str, float] | None = None,
) -> Layer:
    """Fits the layer of `apply_layer` on a few labelled images.

    Args:
        model: Images to `(batch, num_scores)` scores, of all classes and of
            auxiliary modules.
        data: Images, labelled in the classes of the model; those with a label
            above them are left out.
        class_names: Names of the classes.
        prior: As in `fit_lines`.

    Returns:
        See `fit_scores`.

    Raises:
        ArtifactError: If there are no images of a class, or only of one.
    """
    images = data.take(np.flatnonzero(data.labels < len(class_names)))
    _check_every_class(images.labels, class_names)
    scores = predict(model, images.images)
    weights, bias = fit_scores(scores, images.labels)
    shifts = _shifts(images.labels, class_names, prior, math.log)
    return weights, bias + np.array(shifts, bias.dtype)


def _check_every_class(labels, class_names):
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
