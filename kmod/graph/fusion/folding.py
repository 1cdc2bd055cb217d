"""Folds layers into the convolution or Dense layer in front of them."""

import collections
import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops

from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace
from kmod.graph.calls import arguments_on
from kmod.graph.rules.base import channel_axis
from kmod.graph.rules.kernels import CONVOLUTIONS
from kmod.graph.rules.kernels import DEPTHWISE
from kmod.graph.rules.per_channel import TRAINING_ONLY
from kmod.graph.rules.per_channel import is_elementwise

LINEAR = (*CONVOLUTIONS, *DEPTHWISE, layers.Dense)
GLOBAL_POOLINGS = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)


def fold(traced: Trace) -> tuple[list[Call], TensorRef]:
    """Shortens a trace, with the same answers.

    Layers that act in training only are left out. BatchNormalization,
    activations and Dense layers become part of the linear layer in front, if
    nothing else reads that. Of what works on images of one pixel only that is
    kept which does not meet padding. Layers that are called twice stay as they
    are.

    Args:
        traced: The model. Its layers are not changed.

    Returns:
        Tuple `(calls, output)`: the calls, with layers of their own where
        something was folded, and the tensor that the model returns.
    """
    calls, output = _without_training_only(traced)
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
    calls = [
        on_one_pixel(call) if num_calls[call.name] == 1 else call
        for call in done.values()
    ]
    return calls, output


def _without_training_only(traced):
    """Returns calls and output without the layers that do nothing in use."""
    same: dict[int, TensorRef] = {}

    def now(ref):
        return same.get(ref.index, ref)

    calls = []
    for call in traced.calls:
        inputs = tuple(map(now, call.inputs))
        if type(call.operation) in TRAINING_ONLY:
            same[call.outputs[0].index] = inputs[0]
            continue
        args, kwargs = arguments_on(call, now)
        calls.append(
            dataclasses.replace(call, args=args, kwargs=kwargs, inputs=inputs)
        )
    return calls, now(traced.output)


def _both(front: Call, call: Call) -> keras.layers.Layer | None:
    """Returns the one layer that does what two do, `None` if none does."""
    first, second = front.operation, call.operation
    if type(first) not in LINEAR or not isinstance(second, layers.Layer):
        return None
    if keras.activations.serialize(first.activation) != "linear":
        return None
    if first.dtype_policy != second.dtype_policy:
        return None
    shape, rank = front.inputs[0].shape, call.inputs[0].rank
    if type(second) is layers.BatchNormalization:
        if second.axis % rank != channel_axis(first, rank):
            return None
        return _normalised(first, second, shape)
    if activation := _activation(second):
        config = {**first.get_config(), "activation": activation}
        return _built(type(first), config, shape, first.get_weights())
    if type(first) is type(second) is layers.Dense:
        return _product(first, second, shape)
    return None


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
    return _built(type(layer), config, shape, weights)


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
    weights = [product, bias @ last + last_bias]
    config = {**second.get_config(), "use_bias": True}
    return _built(layers.Dense, config, shape, weights)


def _kernel_and_bias(layer):
    kernel, *bias = (_array(weight) for weight in layer.weights)
    made = kernel.shape[-1]
    if isinstance(layer, DEPTHWISE):
        made *= kernel.shape[-2]
    return kernel, bias[0] if bias else np.zeros(made)


def _array(weight):
    """Returns a weight in float64, for sums that round once only."""
    return ops.convert_to_numpy(weight).astype("float64")


def on_one_pixel(call: Call) -> Call:
    """Returns a call that does less, with the same answers.

    After many poolings an image can be of one pixel. Of a convolution's kernel
    all but one entry then meets padding: what is left is a convolution of
    size 1. Global pooling only flattens such an image.

    Args:
        call: Call of a layer that is called once.

    Returns:
        The call of another layer; `call` itself where nothing can be saved.
    """
    layer = call.operation
    if getattr(layer, "data_format", None) != "channels_last":
        return call
    if set(call.inputs[0].shape[1:-1]) != {1}:
        return call
    if type(layer) in GLOBAL_POOLINGS and not layer.keepdims:
        layer = layers.Flatten(name=layer.name, dtype=layer.dtype_policy)
    elif type(layer) in CONVOLUTIONS and layer.padding == "same":
        layer = _of_size_1(layer, call.inputs[0].shape)
    return dataclasses.replace(call, operation=layer)


def _of_size_1(layer, shape):
    """Returns a convolution of size 1, the layer itself where none is it."""
    padded = [
        (size - 1) * step // 2
        for size, step in zip(layer.kernel_size, layer.dilation_rate)
    ]
    if any(pad % step for pad, step in zip(padded, layer.dilation_rate)):
        return layer
    entry = tuple(p // s for p, s in zip(padded, layer.dilation_rate))
    ones = (1,) * len(entry)
    kernel, *bias = layer.get_weights()
    kernel = kernel[entry].reshape(*ones, *kernel.shape[len(entry) :])
    sizes = dict.fromkeys(("kernel_size", "strides", "dilation_rate"), ones)
    config = {**layer.get_config(), **sizes}
    return _built(type(layer), config, shape, [kernel, *bias])


def _built(kind: type, config: dict, shape: tuple, weights: list) -> Any:
    """Returns a new layer for inputs of `shape` that has these weights."""
    layer = kind.from_config(config)
    layer.build(shape)
    layer.set_weights(weights)
    return layer
