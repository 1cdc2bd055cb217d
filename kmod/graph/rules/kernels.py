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
READS_ANOTHER_AXIS = "it reads another axis as channels"
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


class KernelRule(LayerRule):
    """A layer that mixes its input channels and makes new ones.

    A grouped convolution mixes the channels of each group only: what a group
    reads and what it makes is kept or removed together.

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
        if read is not None and read.axis != axis:
            space.pin(read, call.name, READS_ANOTHER_AXIS)
            read = None
        else:
            space.tie_calls(call, read)
        if not self.mixes(call):
            self._tie_groups(call, read, made, space)
        if not is_elementwise(layer.activation):
            space.pin(made, call.name, MIXES_CHANNELS)
        return [made]

    def mixes(self, call):
        return _groups(call) == 1

    def _tie_groups(self, call, read, made, space):
        reason = "its convolution is grouped and reads a fixed tensor"
        if read is None:
            space.pin(made, call.name, reason)
            return
        parts = (np.split(m.ids, _groups(call)) for m in (read, made))
        for group in zip(*parts):
            space.tie_kernels(np.concatenate(group), call.name, reason)

    def cut(self, call, inputs, outputs):
        (reads,), (makes,) = inputs, outputs
        size = getattr(call.operation, self.size)
        changes = {self.size: size if makes is None else len(makes)}
        if not self.mixes(call):
            changes["groups"] = _groups(call) * changes[self.size] // size
            reads = None  # A kernel reads its own group, which stays whole.
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
            space.pin(read, call.name, READS_ANOTHER_AXIS)
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


def _groups(call):
    return getattr(call.operation, "groups", 1)


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
