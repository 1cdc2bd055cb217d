"""Whether a rebuilt model answers as the model that it was made from."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import Trace
from kmod.graph.calls import run_trace
from kmod.graph.channel_graph import ChannelGraph
from kmod.graph.channel_graph import channel_graph
from kmod.graph.rebuild import rebuild
from kmod.graph.sources import answers_of

Range = tuple[float, float]

# Both sides compute the same in the same order, so that rounding makes no
# difference before the last activation; measured were gaps up to 1e-7.
TOLERANCE = 1e-5

NUM_IMAGES = 2
COARSE = 4  # Positions along an axis that random images differ at most by.
UNKNOWN_SIZE = 64
ASSUMED_RANGES = ((0.0, 255.0), (0.0, 1.0))

# Probabilities are compared by their logarithms, as far as float32 tells them
# apart from 0 and from 1.
LEAST_PROBABILITY = 1e-30
LEAST_DOUBT = 1e-4


@dataclasses.dataclass(frozen=True)
class Exactness:
    """How a rebuilt model differs from the one that it was made from.

    Attributes:
        gap: Largest difference of answers, relative to the largest answer;
            of logarithms, where answers are probabilities.
        layer: The first layer whose output differs by more, if one was found.
    """

    gap: float
    layer: str | None = None

    @property
    def is_exact(self) -> bool:
        return self.gap <= TOLERANCE and self.layer is None


def output_gap(
    answers: np.ndarray, expected: np.ndarray, least_scale: float = 1e-6
) -> float:
    """Returns the largest difference ÷ the largest expected value.

    Args:
        answers: Array of any shape.
        expected: Array of the same shape.
        least_scale: What counts as largest value where all are smaller.
    """
    scale = max(float(np.abs(expected).max()), least_scale)
    return float(np.abs(answers - expected).max()) / scale


def check_exactness(
    source: keras.Model,
    graph: ChannelGraph,
    value_range: Range | None = None,
    flat: ChannelGraph | None = None,
    logits: Callable | None = None,
) -> Exactness:
    """Refuses a rebuilt model that answers otherwise than its source.

    Takes the arguments of `measure_exactness`.

    Returns:
        What that measured.

    Raises:
        UnsupportedModelError: If the two differ by more than rounding.
    """
    found = measure_exactness(source, graph, value_range, flat, logits)
    if not found.is_exact:
        where = f", first at layer {found.layer!r}" if found.layer else ""
        raise UnsupportedModelError(
            "A source model must answer the same when it is rebuilt with all "
            f"kernels, within {TOLERANCE:g} of the largest answer. "
            f"Received: {source.name!r} with a gap of {found.gap:.3g}{where}. "
            "All that a layer has learned must be in its weights or its "
            "config; replace the layer, or declare `value_range` if the model "
            "takes other images than 0 to 255 and 0 to 1."
        )
    return found


def measure_exactness(
    source: keras.Model,
    graph: ChannelGraph,
    value_range: Range | None = None,
    flat: ChannelGraph | None = None,
    logits: Callable | None = None,
) -> Exactness:
    """Compares a rebuilt model with its source on a few random images.

    Args:
        source: The source model; its own call is what is compared with.
        graph: Its channel graph.
        value_range: Smallest and largest pixel value of the images. Defaults
            to both 0 to 255 and 0 to 1.
        flat: Channel graph of the rebuilt model. Defaults to one that is
            rebuilt here, in the source's own data types.
        logits: Function of images that computes the rebuilt model's logits,
            `(batch, num_classes)`. Goes with `flat`.

    Returns:
        The `Exactness`. If answers are saturated, so that they tell nothing,
        every layer is compared.

    Raises:
        UnsupportedModelError: If the source model does not run on such images.
    """
    if flat is None:
        rebuilt = rebuild(graph, dtype=None)
        flat = channel_graph(rebuilt)
        logits = functools.partial(rebuilt, training=False)
    with keras.device("cpu:0"):
        images = ops.convert_to_tensor(
            random_images(graph.trace, value_range), graph.trace.input_dtype
        )
        expected = _answers(source, images)
        values = logits(images)
        if graph.is_one_score:
            values = values[:, 1:]
        answers, expected, is_telling = _comparable(
            values, expected, graph.activations
        )
        gap = _gap(answers, expected, 1.0 if graph.activations else 1e-6)
        layer = None
        if not is_telling or not gap <= TOLERANCE:
            layer = _first_difference(graph, flat, images)
    return Exactness(gap, layer)


def random_images(
    traced: Trace, value_range: Range | None = None
) -> np.ndarray:
    """Draws images that a model takes, the same ones at every call.

    They are coarse and noisy, so that they differ at every scale.

    Args:
        traced: The model. Where its image size is unknown, it is 64.
        value_range: Smallest and largest pixel value. Defaults to 0 to 255 in
            one half of the images and 0 to 1 in the other.

    Returns:
        Float array `(NUM_IMAGES, ...)`; whole numbers for integer models.
    """
    shape = [size or UNKNOWN_SIZE for size in traced.input.shape[1:]]
    draw = np.random.default_rng(0)
    coarse = draw.random([NUM_IMAGES, *(min(s, COARSE) for s in shape)])
    for axis, size in enumerate(shape, 1):
        positions = np.arange(size) * coarse.shape[axis] // size
        coarse = np.take(coarse, positions, axis=axis)
    images = (coarse + draw.random(coarse.shape)) / 2
    ranges = ASSUMED_RANGES if value_range is None else (value_range,)
    parts = [
        low + (high - low) * part
        for (low, high), part in zip(ranges, np.split(images, len(ranges)))
    ]
    images = np.concatenate(parts)
    if "int" in traced.input_dtype:
        return np.rint(images)
    return images.astype("float32")


def _answers(source, images):
    try:
        return answers_of(source, images)
    except Exception as error:  # Of the backend, in its own classes.
        raise UnsupportedModelError(
            "A source model must run on images of its value range. Received: "
            f"{source.name!r}, which raised {type(error).__name__}. Declare "
            "`value_range` if it takes other images than 0 to 255 and 0 to 1."
        ) from error


def _comparable(logits, expected, activations):
    """Brings logits and a model's answers to the same form.

    Returns:
        Tuple `(answers, expected, is_telling)`; the last is whether any answer
        would show a difference of logits.
    """
    answers = ops.cast(logits, expected.dtype)
    for name in activations:
        answers = keras.activations.get(name)(answers)
    answers, expected = (
        ops.convert_to_numpy(values).astype("float64")
        for values in (answers, expected)
    )
    if not activations or activations[-1] == "log_softmax":
        return answers, expected, True
    answers, expected = (
        np.log(np.maximum(values, LEAST_PROBABILITY))
        for values in (answers, expected)
    )
    is_telling = np.any(
        (expected > np.log(LEAST_PROBABILITY)) & (expected < -LEAST_DOUBT)
    )
    return answers, expected, bool(is_telling)


def _gap(answers, expected, least_scale=1e-6):
    """Returns the gap where both are numbers, infinity where one is not."""
    is_finite = np.isfinite(expected)
    if not np.array_equal(is_finite, np.isfinite(answers)):
        return float("inf")
    if not is_finite.any():
        return 0.0
    return output_gap(answers[is_finite], expected[is_finite], least_scale)


def _first_difference(graph, flat, images):
    """Names the first layer of the source whose output is not the same.

    What a layer's fused activation makes is compared where it has become a
    layer; layers that are called twice are left out, and those that are not
    in the rebuilt model, since they act in training only.
    """
    theirs, ours = (
        run_trace(g.trace, ops.cast(images, g.trace.input_dtype))
        for g in (graph, flat)
    )
    names = [call.name for call in graph.trace.calls]
    by_name = {call.name: call for call in flat.trace.calls}
    split = {
        call.inputs[0].index: call
        for call in flat.trace.calls
        if call.name not in names
    }
    for call in graph.trace.calls:
        if names.count(call.name) > 1 or call.name not in by_name:
            continue
        own = by_name[call.name]
        own = split.get(own.outputs[0].index, own)
        for ref, own_ref in zip(call.outputs, own.outputs):
            values = theirs[ref.index], ours[own_ref.index]
            expected, answers = (
                ops.convert_to_numpy(value).astype("float64")
                for value in values
            )
            if not _gap(answers, expected) <= TOLERANCE:
                return call.name
    return None
