"""Rules of normalisation layers."""

import numpy as np

from kmod.graph.rules.base import copy_of
from kmod.graph.rules.base import take
from kmod.graph.rules.per_channel import PassThrough

ANOTHER_AXIS = "it normalises along another axis"


class BatchNormRule(PassThrough):
    """BatchNormalization: every weight has the channel axis."""

    def __init__(self):
        super().__init__(weights=dict.fromkeys(range(4), 0))

    def obstacle(self, call, channels):
        if call.operation.axis % call.inputs[0].rank != channels.axis:
            return ANOTHER_AXIS
        return None


class GroupNormRule(BatchNormRule):
    """GroupNormalization: channels of a group are kept or removed together.

    One group of all channels is normalised over those that are kept.
    """

    def flow(self, call, space):
        (channels,) = super().flow(call, space)
        if channels is not None and not self.mixes(call):
            for group in np.split(channels.ids, call.operation.groups):
                reason = "it normalises them with fixed channels"
                space.tie_kernels(group, call.name, reason)
        return [channels]

    def mixes(self, call):
        return call.operation.groups == 1

    def cut(self, call, inputs, outputs):
        layer, weights = super().cut(call, inputs, outputs)
        if inputs[0] is None or self.mixes(call):
            return layer, weights
        size = call.inputs[0].shape[layer.axis] // layer.groups
        return copy_of(layer, groups=len(inputs[0]) // size)[0], weights


class ChannelNormRule(PassThrough):
    """Normalises over channels, in modules over those that are kept."""

    def __init__(self):
        super().__init__(weights=dict.fromkeys(range(2), 0))

    def mixes(self, call):
        return True

    def obstacle(self, call, channels):
        if channels.axis not in normalised_axes(call):
            return ANOTHER_AXIS
        if getattr(call.operation, "rms_scaling", False):
            return "it scales by the variance"
        return None

    def cut(self, call, inputs, outputs):
        layer, weights = copy_of(call.operation)
        (reads,) = inputs
        if reads is not None:
            axis = normalised_axes(call).index(reads.axis)
            weights = [take(weight, reads, axis) for weight in weights]
        return layer, weights


def normalised_axes(call) -> list[int]:
    """Returns the axes that a layer normalises over, in its weights' order."""
    rank = call.inputs[0].rank
    return [int(axis) % rank for axis in np.atleast_1d(call.operation.axis)]
