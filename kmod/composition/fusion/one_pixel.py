"""Convolutions of images of one pixel, without what only meets padding."""

import dataclasses

from kmod.composition.fusion.folding import CONVOLUTIONS
from kmod.composition.fusion.folding import built
from kmod.graph.calls import Call


def on_one_pixel(call: Call) -> Call:
    """Takes a convolution's kernel down to the entry that meets the image.

    After many poolings an image can be of one pixel. All of a kernel but one
    entry then meets padding, and what is left is a convolution of size 1.

    Args:
        call: Call of a layer that is called once.

    Returns:
        The call of a layer with the same answers; `call` itself where that
        is not a padded convolution of one pixel.
    """
    layer = call.operation
    if (
        type(layer) not in CONVOLUTIONS
        or layer.padding != "same"
        or layer.data_format == "channels_first"
        or set(call.inputs[0].shape[1:-1]) != {1}
    ):
        return call
    rank = len(layer.kernel_size)
    padded = [
        (size - 1) * step // 2
        for size, step in zip(layer.kernel_size, layer.dilation_rate)
    ]
    if any(pad % step for pad, step in zip(padded, layer.dilation_rate)):
        return call
    entry = tuple(p // s for p, s in zip(padded, layer.dilation_rate))
    kernel, *bias = layer.get_weights()
    kernel = kernel[entry].reshape((1,) * rank + kernel.shape[rank:])
    ones = (1,) * rank
    config = {
        **layer.get_config(),
        "kernel_size": ones,
        "strides": ones,
        "dilation_rate": ones,
    }
    layer = built(type(layer), config, call.inputs[0].shape, [kernel, *bias])
    return dataclasses.replace(call, operation=layer)
