"""Rules of layers that move positions: Flatten, Reshape, global pooling."""

import numpy as np

from kmod.graph.channels import PINNED
from kmod.graph.channels import ChannelMap
from kmod.graph.rules.base import LayerRule
from kmod.graph.rules.base import channel_axis
from kmod.graph.rules.base import copy_of


class GlobalPoolingRule(LayerRule):
    """One value for each channel."""

    def flow(self, call, space):
        (image,), (output,) = call.inputs, call.outputs
        read = space.map_of(image)
        if read is None:
            return [None]
        if read.axis != channel_axis(call.operation, image.rank):
            space.pin(read, call.name, "it works across the channel axis")
            return [None]
        kept_axis = output.rank == image.rank
        return [ChannelMap(read.axis if kept_axis else 1, read.ids)]


class ReshapeRule(LayerRule):
    """Moves positions: follows every kernel id to where it comes to lie.

    Args:
        move: Function of an id array `(1, ...)` with the input's shape, the
            call and the static output shape; returns the moved array.
    """

    def __init__(self, move):
        self.move = move

    def flow(self, call, space):
        (image,), (output,) = call.inputs, call.outputs
        read = space.map_of(image)
        if read is None:
            return [None]
        shape, moved_shape = image.shape[1:], output.shape[1:]
        if None in shape or None in moved_shape:
            space.pin(read, call.name, "it reshapes an image of unknown size")
            return [None]
        line = [1] * image.rank
        line[read.axis] = -1
        ids = np.broadcast_to(read.ids.reshape(line), (1, *shape))
        moved = self.move(ids, call, (1, *moved_shape))
        axis = _axis_of_change(moved)
        if axis is None:
            space.pin(read, call.name, "it mixes channels and positions")
            return [None]
        first = np.moveaxis(moved, axis, -1).reshape(-1, moved.shape[axis])[0]
        return [ChannelMap(axis, first)]

    def cut(self, call, inputs, outputs):
        (kept,) = outputs
        if kept is None or not hasattr(call.operation, "target_shape"):
            return copy_of(call.operation)
        sizes = list(call.outputs[0].shape)
        sizes[kept.axis] = len(kept)
        return copy_of(call.operation, target_shape=tuple(sizes[1:]))


class PadRule(LayerRule):
    """`keras.ops.pad`: what is added to the channels belongs to no kernel."""

    def flow(self, call, space):
        (image,) = call.inputs
        read = space.map_of(image)
        if read is None:
            return [None]
        widths = call.operation.pad_width
        width = widths[read.axis] if len(widths) > 1 else widths[0]
        if any(width) and call.operation.mode != "constant":
            space.pin(read, call.name, "it repeats channels at their end")
            return [None]
        ids = np.pad(read.ids, width, constant_values=PINNED)
        return [ChannelMap(read.axis, ids)]


def flatten(ids, call, shape):
    """Flatten reads channels-first images in channels-last order."""
    if call.operation.data_format == "channels_first" and ids.ndim > 1:
        ids = np.moveaxis(ids, 1, -1)
    return ids.reshape(shape)


def reshape(ids, call, shape):
    return ids.reshape(shape)


def permute(ids, call, shape):
    return np.transpose(ids, (0, *call.operation.dims))


def repeat_vector(ids, call, shape):
    return np.broadcast_to(ids[:, None], shape)


def _axis_of_change(moved):
    """Returns the only axis along which an id array changes, or `None`."""
    changing = [
        axis
        for axis in range(1, moved.ndim)
        if np.any(moved != np.take(moved, [0], axis=axis))
    ]
    return changing[0] if len(changing) == 1 else None
