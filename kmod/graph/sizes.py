"""How large a model is: parameters, multiply-accumulates, kernels."""

import collections
import dataclasses
import math
from typing import NamedTuple

import keras
from keras import layers

from kmod.errors import UnsupportedModelError

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


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
    """Measures the size of a Functional or Sequential model.

    Args:
        model: Functional or Sequential model, built, of known image size;
            models inside it count as well.

    Returns:
        The `Sizes`.

    Raises:
        UnsupportedModelError: If the model is of another kind or its image
            size is not known.
    """
    filters = {
        id(call.layer): call.layer.filters
        for call in _calls(model)
        if isinstance(call.layer, CONVOLUTIONS + TRANSPOSED + SEPARABLE)
    }
    return Sizes(
        parameters=model.count_params(),
        macs=sum(layer_macs(model).values()),
        kernels=sum(filters.values()),
    )


def layer_macs(model: keras.Model) -> dict[str, int]:
    """Counts multiply-accumulates for one image, layer by layer.

    Convolutions and Dense layers count, and a layer that is called twice
    counts twice. All other layers count nothing. Layers inside a nested model
    are named `model/layer`.

    Args:
        model: As in `model_sizes`.

    Returns:
        Multiply-accumulates of each layer that has any, in the order of
        computation.

    Raises:
        UnsupportedModelError: As `model_sizes`.
    """
    macs = collections.Counter()
    for call in _calls(model):
        macs[call.name] += _macs(call.layer, call.inputs, call.outputs)
    return {name: count for name, count in macs.items() if count}


class _Call(NamedTuple):
    name: str
    layer: keras.Operation
    inputs: keras.KerasTensor
    outputs: keras.KerasTensor


def _calls(model):
    """Lists the calls of layers, on shapes of one image."""
    graph = _graph(model)
    if graph is None:
        raise UnsupportedModelError(
            "The layers of Functional and Sequential models can be counted. "
            f"Received: {model.name!r} of type {type(model).__name__}. Give a "
            "Sequential a `keras.Input`, write others with "
            "`keras.Model(inputs, outputs)`."
        )
    calls = []
    _follow(graph, [_one_image(tensor) for tensor in graph.inputs], "", calls)
    return calls


def _graph(model):
    """Returns the Functional model behind `model`, `None` if there is none."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if hasattr(model, "_run_through_graph") else None


def _one_image(tensor):
    if None in tensor.shape[1:]:
        raise UnsupportedModelError(
            "Multiply-accumulates depend on the image size, so it must be "
            f"known. Received: an input of shape {tensor.shape}. Call the "
            "model on a `keras.Input` of the size you mean, and count the "
            "model of both."
        )
    return keras.KerasTensor((1, *tensor.shape[1:]), tensor.dtype)


def _follow(graph, inputs, prefix, calls):
    """Runs shapes instead of numbers through a graph and notes the calls."""

    def noting(operation):
        name = prefix + operation.name
        inner = _graph(operation)

        def run(*args, **kwargs):
            if inner is not None:
                return _follow(inner, args[0], f"{name}/", calls)
            outputs = operation.compute_output_spec(*args, **kwargs)
            calls.append(_Call(name, operation, args[0], outputs))
            return outputs

        return run

    return graph._run_through_graph(inputs, operation_fn=noting)


def _macs(layer, inputs, outputs):
    # Every weight of a kernel is used once at every position it visits.
    if isinstance(layer, layers.Dense):
        return math.prod(outputs.shape[:-1]) * _size(layer.kernel)
    if isinstance(layer, TRANSPOSED):
        return _positions(layer, inputs) * _size(layer.kernel)
    if isinstance(layer, CONVOLUTIONS + DEPTHWISE):
        return _positions(layer, outputs) * _size(layer.kernel)
    if isinstance(layer, SEPARABLE):
        size = _size(layer.depthwise_kernel) + _size(layer.pointwise_kernel)
        return _positions(layer, outputs) * size
    return 0


def _positions(layer, tensor):
    channels_first = layer.data_format == "channels_first"
    return math.prod(tensor.shape[2:] if channels_first else tensor.shape[1:-1])


def _size(kernel):
    return math.prod(kernel.shape)
