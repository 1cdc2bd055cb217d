"""Layers on images of one pixel, without what only meets padding."""

import dataclasses

from keras import layers

from kmod.graph.calls import Call
from kmod.graph.fusion.folding import CONVOLUTIONS
from kmod.graph.fusion.folding import built

GLOBAL_POOLINGS = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)


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
    config = {
        **layer.get_config(),
        "kernel_size": ones,
        "strides": ones,
        "dilation_rate": ones,
    }
    return built(type(layer), config, shape, [kernel, *bias])
