"""Rules of the layers that own kernels: convolutions and Dense."""

import numpy as np
from keras import layers
from keras import ops

from kmod.graph.channels import ChannelMap
from kmod.graph.rules.base import Kept
from kmod.graph.rules.base import LayerRule
from kmod.graph.rules.base import channel_axis
from kmod.graph.rules.base import copy_of
from kmod.graph.rules.base import take
from kmod.graph.rules.per_channel import MIXES_CHANNELS
from kmod.graph.rules.per_channel import is_elementwise

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


class KernelRule(LayerRule):
    """A layer that mixes its input channels and makes new ones.

    Args:
        size: Config entry that counts the kernels, such as `filters`.
        in_axis: Axis of input channels in the layer's kernel array.
        out_axis: Axis of output channels in the layer's kernel array.
    """

    def __init__(self, size, in_axis=-2, out_axis=-1):
        self.size = size
        self.in_axis = in_axis
        self.out_axis = out_axis

    def flow(self, call, space):
        (image,) = call.inputs
        layer = call.operation
        axis = channel_axis(layer, image.rank)
        count = getattr(layer, self.size)
        made = ChannelMap(axis, space.new_kernels(call.name, count))
        read = space.map_of(image)
        if getattr(layer, "groups", 1) > 1:
            reason = "its convolution is grouped"
            space.pin(read, call.name, reason)
            space.pin(made, call.name, reason)
        elif read is not None and read.axis != axis:
            space.pin(read, call.name, "it reads another axis as channels")
        else:
            space.tie_calls(call, read)
        if not is_elementwise(layer.activation):
            space.pin(made, call.name, MIXES_CHANNELS)
        return [made]

    def cut(self, call, inputs, outputs):
        (reads,), (makes,) = inputs, outputs
        changes = self._config(getattr(call.operation, self.size), makes)
        layer, weights = copy_of(call.operation, **changes)
        if getattr(call.operation, "lora_enabled", False):
            layer, _ = copy_of(layer, lora_rank=None)
            weights = _with_adapter(call.operation)
        return layer, self.cut_weights(weights, reads, makes)

    def cut_weights(self, weights, reads, makes):
        kernel, *bias = weights
        kernel = take(kernel, reads, self.in_axis)
        kernel = take(kernel, makes, self.out_axis)
        return [kernel, *(take(b, makes, 0) for b in bias)]

    def _config(self, size, makes):
        return {self.size: size if makes is None else len(makes)}


class SeparableRule(KernelRule):
    """A depthwise convolution and the pointwise one that mixes it."""

    def __init__(self):
        super().__init__("filters")

    def cut_weights(self, weights, reads, makes):
        depthwise, pointwise, *bias = weights
        multiplier = depthwise.shape[-1]
        depthwise = take(depthwise, reads, -2)
        pointwise = take(pointwise, repeated(reads, multiplier), -2)
        pointwise = take(pointwise, makes, -1)
        return [depthwise, pointwise, *(take(b, makes, 0) for b in bias)]


class DepthwiseRule(LayerRule):
    """A convolution of each channel by itself: channels pass through."""

    def flow(self, call, space):
        (image,) = call.inputs
        read = space.map_of(image)
        axis = channel_axis(call.operation, image.rank)
        if read is None:
            return [None]
        if read.axis != axis:
            space.pin(read, call.name, "it reads another axis as channels")
            return [None]
        if not is_elementwise(call.operation.activation):
            space.pin(read, call.name, MIXES_CHANNELS)
            return [None]
        space.tie_calls(call, read)
        multiplier = call.operation.depth_multiplier
        return [ChannelMap(axis, np.repeat(read.ids, multiplier))]

    def cut(self, call, inputs, outputs):
        layer, (kernel, *bias) = copy_of(call.operation)
        kernel = take(kernel, inputs[0], -2)
        return layer, [kernel, *(take(b, outputs[0], 0) for b in bias)]


def _with_adapter(layer):
    """Returns a layer's weights with what its LoRA adapter adds to them."""
    weights = [layer.kernel, *([layer.bias] if layer.use_bias else [])]
    return [ops.convert_to_numpy(weight) for weight in weights]


def repeated(kept: Kept | None, times: int) -> Kept | None:
    """Returns kept positions after each was repeated `times` times."""
    if kept is None or times == 1:
        return kept
    positions = kept.positions[:, None] * times + np.arange(times)
    return Kept(kept.axis, positions.ravel())
