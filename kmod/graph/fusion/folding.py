"""Folds layers into the convolution or Dense layer in front of them."""

import collections
import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops
from keras import tree

from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace
from kmod.graph.rules.base import channel_axis
from kmod.graph.rules.per_channel import is_elementwise

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
LINEAR = (*CONVOLUTIONS, *DEPTHWISE, layers.Dense)
IDLE_IN_USE = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
)


def fold(traced: Trace) -> tuple[list[Call], TensorRef]:
    """Shortens a trace, with the same answers.

    Layers that act in training only are left out. BatchNormalization,
    activations and Dense layers become part of the linear layer in front, if
    nothing else reads that. Layers that are called twice stay as they are.

    Args:
        traced: The model. Its layers are not changed.

    Returns:
        Tuple `(calls, output)`: the calls, with layers of their own where
        something was folded, and the tensor that the model returns.
    """
    calls, output = _without_idle(traced)
    num_calls = collections.Counter(call.name for call in calls)
    readers = collections.Counter(ref.index for c in calls for ref in c.inputs)
    readers[output.index] += 1
    done: dict[int, Call] = {}
    for call in calls:
        front = done.get(call.inputs[0].index) if call.inputs else None
        layer = None
        if (
            front is not None
            and readers[call.inputs[0].index] == 1
            and num_calls[call.name] == num_calls[front.name] == 1
        ):
            layer = _both(front, call)
        if layer is not None:
            del done[front.outputs[0].index]
            call = dataclasses.replace(
                front, operation=layer, outputs=call.outputs
            )
        done[call.outputs[0].index] = call
    return list(done.values()), output


def built(kind: type, config: dict, shape: tuple, weights: list) -> Any:
    """Returns a new layer for inputs of `shape` that has these weights."""
    layer = kind.from_config(config)
    layer.build(shape)
    layer.set_weights(weights)
    return layer


def _without_idle(traced):
    """Returns calls and output without the layers that do nothing in use."""
    same: dict[int, TensorRef] = {}

    def now(leaf):
        is_ref = isinstance(leaf, TensorRef)
        return same.get(leaf.index, leaf) if is_ref else leaf

    calls = []
    for call in traced.calls:
        args, kwargs = tree.map_structure(now, (call.args, call.kwargs))
        inputs = tuple(now(ref) for ref in call.inputs)
        if type(call.operation) in IDLE_IN_USE:
            same[call.outputs[0].index] = inputs[0]
        else:
            calls.append(
                dataclasses.replace(
                    call, args=args, kwargs=kwargs, inputs=inputs
                )
            )
    return calls, now(traced.output)


def _both(front: Call, call: Call) -> keras.layers.Layer | None:
    """Returns the one layer that does what two do, `None` if none does."""
    first, second = front.operation, call.operation
    if type(first) not in LINEAR or not _is_linear(first):
        return None
    if not isinstance(second, layers.Layer):
        return None
    if first.dtype_policy != second.dtype_policy:
        return None
    shape = front.inputs[0].shape
    if type(second) is layers.BatchNormalization:
        if second.axis % call.inputs[0].rank != _channel_axis(call, first):
            return None
        return _normalised(first, second, shape)
    if activation := _activation(second):
        config = {**first.get_config(), "activation": activation}
        return built(type(first), config, shape, first.get_weights())
    if type(first) is type(second) is layers.Dense:
        return _product(first, second, shape)
    return None


def _is_linear(layer):
    return keras.activations.serialize(layer.activation) == "linear"


def _channel_axis(call, layer):
    return channel_axis(layer, call.inputs[0].rank)


def _activation(layer):
    """Returns the activation function that a layer is, `None` if not one."""
    if type(layer) is layers.Activation and is_elementwise(layer.activation):
        return keras.activations.serialize(layer.activation)
    if type(layer) is layers.ReLU:
        is_plain = layer.max_value is None and not layer.negative_slope
        return "relu" if is_plain and not layer.threshold else None
    return None


def _normalised(layer, norm, shape):
    scale, shift = _scale_and_shift(norm)
    kernel, bias = _kernel_and_bias(layer)
    kernel_scale = scale
    if isinstance(layer, DEPTHWISE):
        kernel_scale = scale.reshape(kernel.shape[-2:])
    weights = [kernel * kernel_scale, bias * scale + shift]
    config = {**layer.get_config(), "use_bias": True}
    return built(type(layer), config, shape, weights)


def _scale_and_shift(norm):
    """Returns what BatchNormalization does in use, as a line."""
    mean, variance = _array(norm.moving_mean), _array(norm.moving_variance)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * _array(norm.gamma)
    shift = -mean * scale
    return scale, shift + _array(norm.beta) if norm.center else shift


def _product(first, second, shape):
    """Multiplies two Dense layers, unless that makes more work of them."""
    (kernel, bias), (last, last_bias) = map(_kernel_and_bias, (first, second))
    product = kernel @ last
    if product.size > kernel.size + last.size:
        return None
    config = {**second.get_config(), "use_bias": True}
    return built(
        layers.Dense, config, shape, [product, bias @ last + last_bias]
    )


def _kernel_and_bias(layer):
    kernel, *bias = (_array(weight) for weight in layer.weights)
    made = kernel.shape[-1]
    if isinstance(layer, DEPTHWISE):
        made *= kernel.shape[-2]
    return kernel, bias[0] if bias else np.zeros(made)


def _array(weight):
    """Returns a weight in float64, for sums that round once only."""
    return ops.convert_to_numpy(weight).astype("float64")
