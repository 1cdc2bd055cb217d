"""How large a model is: parameters, multiply-accumulates, kernels."""

import collections
import dataclasses
import math

import keras
from keras import tree
from keras.layers import Dense

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import arguments_on
from kmod.graph.rules.base import channel_axis
from kmod.graph.rules.kernels import CONVOLUTIONS
from kmod.graph.rules.kernels import DEPTHWISE
from kmod.graph.rules.kernels import SEPARABLE
from kmod.graph.rules.kernels import TRANSPOSED
from kmod.graph.trace import trace


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Size of a model.

    Attributes:
        parameters: Number of weights.
        macs: Multiply-accumulates of convolutions and Dense layers for one
            image.
        kernels: Number of filters of the convolutions, those of DepthwiseConv
            layers left out since they make no new channels. Dense units are
            not counted, as in the papers.
    """

    parameters: int
    macs: int
    kernels: int


def model_sizes(model: keras.Model) -> Sizes:
    """Measures the size of a model.

    Args:
        model: Model that `trace` can read, of known image size.

    Returns:
        The `Sizes`.

    Raises:
        UnsupportedModelError: If the graph can not be read or the image size
            is not known.
    """
    calls = list(_counted_calls(model))
    filters = {
        call.name: call.operation.filters
        for call, _ in calls
        if isinstance(call.operation, CONVOLUTIONS + TRANSPOSED + SEPARABLE)
    }
    return Sizes(
        parameters=model.count_params(),
        macs=sum(macs for _, macs in calls),
        kernels=sum(filters.values()),
    )


def layer_macs(model: keras.Model) -> dict[str, int]:
    """Counts multiply-accumulates for one image, layer by layer.

    Convolutions and Dense layers count, and a layer that is called twice
    counts twice. All other layers count nothing.

    Args:
        model: As in `model_sizes`.

    Returns:
        Multiply-accumulates of each layer that has any, in the order of
        computation, by the names that `trace` gives.

    Raises:
        UnsupportedModelError: As `model_sizes`.
    """
    total = collections.Counter()
    for call, macs in _counted_calls(model):
        total[call.name] += macs
    return {name: macs for name, macs in total.items() if macs}


def layer_parameters(model: keras.Model) -> dict[str, int]:
    """Counts the weights of each layer that has any, by the names of `trace`.

    Args:
        model: Model that `trace` can read.

    Raises:
        UnsupportedModelError: If its graph can not be read.
    """
    layers = {
        call.name: call.operation.count_params()
        for call in trace(model).calls
        if isinstance(call.operation, keras.layers.Layer)
    }
    return {name: count for name, count in layers.items() if count}


def _counted_calls(model):
    """Yields each call of a model and its multiply-accumulates.

    A nested model may have been built for other sizes than those it is called
    on, so the shapes are computed anew, for one image.
    """
    traced = trace(model)
    shape = traced.input.shape
    if None in shape[1:]:
        raise UnsupportedModelError(
            "Multiply-accumulates depend on the image size, so it must be "
            f"known. Received: an input of shape {shape}. Call the model on a "
            "`keras.Input` of the size you mean, and count the model of both."
        )
    image = keras.KerasTensor((1, *shape[1:]), traced.input_dtype)
    tensors = {traced.input.index: image}
    for call in traced.calls:
        args, kwargs = arguments_on(call, lambda ref: tensors[ref.index])
        made = tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
        tensors.update(zip((ref.index for ref in call.outputs), made))
        read = tensors[call.inputs[0].index]
        yield call, _macs(call.operation, read, made[0])


def _macs(layer, read, made):
    """Counts: each weight is used once at every position it visits."""
    if isinstance(layer, SEPARABLE):
        kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
    elif isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, Dense)):
        kernels = [layer.kernel]
    else:
        return 0
    visited = read if isinstance(layer, TRANSPOSED) else made
    size = math.prod(visited.shape)
    positions = size // visited.shape[channel_axis(layer, len(visited.shape))]
    return positions * sum(math.prod(kernel.shape) for kernel in kernels)
