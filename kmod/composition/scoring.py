"""Turns the scores of modules into the answer of one classifier.

The last layers of every composed and patched model are built here.
"""

import math
import numbers
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from kmod.data.image_data import LabelledImages
from kmod.data.streaming import predict
from kmod.errors import ArtifactError
from kmod.export.savedmodel import PROBABILITIES_LAYER
from kmod.files import keras_name
from kmod.metrics.calibration import Layer
from kmod.metrics.calibration import fit_platt
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import logit
from kmod.metrics.calibration import prior_shifts
from kmod.spec.model import OtherClass

LOG_ODDS_LAYER = "log_odds"

Route = Callable[[keras.KerasTensor, str], keras.KerasTensor]


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
        name: Name of the model; of one that Keras does not take, the slug.
        output: Whether the model answers with probabilities, or with
            `log_odds` as it is.

    Returns:
        Functional model, images to float32 probabilities or logits.
    """
    if output == "probabilities":
        log_odds = softmax(log_odds, PROBABILITIES_LAYER)
    return keras.Model(image, log_odds, name=keras_name(name))


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
    name: str,
    shifts: Sequence[Sequence[float]] | None = None,
    route: Route | None = None,
) -> keras.KerasTensor:
    """Joins the scores of modules to one score for each class.

    The odds of several modules of one class are added. A softmax then gives
    the class just what the modules would get together as classes of their
    own.

    Args:
        scores: For each class, the log-odds `(batch, 1)` of its modules.
        name: Name of the last layer.
        shifts: What is added to each of them. Defaults to nothing.
        route: Makes the scores of all modules `(batch, num_modules)`
            comparable across sources; called with them and a name. Defaults
            to comparing them as they are.

    Returns:
        Tensor `(batch, num_classes)`.
    """
    shifts = [shift for each in shifts or () for shift in each]
    are_alone = all(len(own) == 1 for own in scores)
    steps = [lambda x, name: join(x, name)]
    if any(shifts):
        steps.append(lambda x, name: line(x, 1.0, shifts, name))
    if route is not None:
        steps.append(route)
    if not are_alone:
        sizes = [len(own) for own in scores]
        steps.append(lambda x, name: _any_of(x, sizes, name))
    x = [score for own in scores for score in own]
    for number, step in enumerate(steps, 1):
        is_last = number == len(steps)
        x = step(x, name if is_last else f"{name}_{number}")
    return x


def _any_of(scores, sizes, name):
    columns, start = [], 0
    for size in sizes:
        own = scores[:, start : start + size]
        if size > 1:
            own = keras.ops.logsumexp(own, axis=-1, keepdims=True)
        columns.append(own)
        start += size
    return join(columns, name)


def apply_lines(
    scores: keras.KerasTensor,
    lines: Sequence[tuple[float, float]],
    name: str,
) -> keras.KerasTensor:
    """Scales and shifts every score by a line of its own.

    Args:
        scores: Tensor `(batch, num_classes)`.
        lines: Scale and shift for each class.
        name: Name of the layer.
    """
    scales, shifts = (list(values) for values in zip(*lines))
    return line(scores, scales, shifts, name)


def apply_layer(
    scores: keras.KerasTensor,
    layer: Layer,
    name: str,
    start: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Weighs the scores of all classes together, by one linear layer.

    Args:
        scores: Tensor `(batch, num_scores)`.
        layer: Weights and biases, see `fit_scores`.
        name: Name of the last layer.
        start: Tensor `(batch, num_classes)` that is added. Defaults to
            nothing.
    """
    weights, bias = layer
    dense = keras.layers.Dense(
        len(bias),
        name=name if start is None else f"{name}_change",
        trainable=False,
        dtype="float32",
    )
    log_odds = dense(scores)
    dense.set_weights([weights, bias])
    if start is None:
        return log_odds
    return keras.layers.Add(name=name, dtype="float32")([start, log_odds])


def add_other(
    scores: keras.KerasTensor,
    other: OtherClass,
    claims: keras.KerasTensor | None = None,
    unfamiliarity: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Adds the class of images that are of no other, as the last one.

    Its score is the highest if and only if the probability of every class is
    below its threshold or no source is familiar with the image.

    Args:
        scores: Tensor `(batch, num_classes)`.
        other: The class.
        claims: Log-odds of every class, where `scores` are none.
        unfamiliarity: Tensor `(batch, 1)`, above 0 if no source is familiar
            with an image, for `other.reject`.
    """
    name = "other_score"
    if unfamiliarity is None and claims is None:
        odds = logit(other.threshold)
        return join(
            [scores, line(scores[:, :1], 0.0, odds, name)], LOG_ODDS_LAYER
        )
    lacks = [] if unfamiliarity is None else [unfamiliarity]
    if other.threshold is not None:
        odds = logit(other.threshold)
        best = _highest(scores if claims is None else claims)
        lacks.append(line(best, -1.0, odds, "unclaimed"))
    lack = lacks[0]
    if len(lacks) > 1:
        lack = keras.layers.Maximum(name="none_of_these", dtype="float32")(
            lacks
        )
    add = keras.layers.Add(name=name, dtype="float32")
    return join([scores, add([_highest(scores), lack])], LOG_ODDS_LAYER)


def _highest(scores):
    return keras.ops.max(scores, axis=-1, keepdims=True)


def fit_lines(
    model: keras.Model,
    data: LabelledImages,
    class_names: Sequence[str],
    prior: str | Mapping[str, float] | None = None,
    worlds: Sequence[int] | None = None,
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
        worlds: For each class its world: only images of the classes of that
            world count. Defaults to one world for all.

    Returns:
        Scale, never below 0, and shift for each class.

    Raises:
        ArtifactError: If there are no images of a class, or of no other.
    """
    _check_every_class(data.labels, class_names)
    scores = predict(model, data.images)
    lines = []
    for index in range(len(class_names)):
        kept = _of_same_world(data.labels, index, worlds)
        is_class = data.labels[kept] == index
        lines.append(line_of(scores[kept, index], is_class))
    shifts = _shifts(data.labels, class_names, prior, logit)
    return [(scale, old + new) for (scale, old), new in zip(lines, shifts)]


def _of_same_world(labels, index, worlds):
    """Tells which images are of a class's world, of all if it has no other."""
    if worlds is None:
        return np.ones(len(labels), bool)
    is_same = np.array([world == worlds[index] for world in worlds] + [False])
    kept = is_same[np.minimum(labels, len(worlds))]
    return kept if is_same.sum() > 1 else np.ones(len(labels), bool)


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
    is_routed: bool = False,
) -> Layer:
    """Fits the layer of `apply_layer` on a few labelled images.

    Args:
        model: Images to `(batch, num_scores)` scores, of all classes and of
            auxiliary modules.
        data: Images, labelled in the classes of the model; those with a label
            above them are left out.
        class_names: Names of the classes.
        prior: As in `fit_lines`.
        is_routed: Whether the first scores are an answer without labels, one
            for each class, which the layer changes as far as the images are
            worth; they have no weights then.

    Returns:
        See `fit_scores`.

    Raises:
        ArtifactError: If there are no images of a class, or only of one.
    """
    images = data.take(np.flatnonzero(data.labels < len(class_names)))
    _check_every_class(images.labels, class_names)
    scores, start = predict(model, images.images), None
    if is_routed:
        start, scores = np.split(scores, [len(class_names)], axis=1)
    weights, bias = fit_scores(scores, images.labels, start)
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
