"""Rules of layers that combine several tensors."""

import numpy as np
from keras import tree

from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.channels import PINNED
from kmod.graph.channels import ChannelMap
from kmod.graph.rules.base import LayerRule
from kmod.graph.rules.base import copy_of

JOINS_ARRAY = "it joins them with a constant array"
DIFFERENT_AXES = "its inputs differ in channel axis"


class ElementwiseRule(LayerRule):
    """Adds, multiplies, ... position by position: ties its inputs.

    A tensor with one channel is broadcast: it stays whole, and the kernels
    behind the others remain removable.
    """

    def flow(self, call, space):
        (output,) = call.outputs
        maps = [space.map_of(ref) for ref in call.inputs]
        if has_array(call):
            return _pin_all(maps, call, space, JOINS_ARRAY)
        axes = {
            m.axis - ref.rank
            for m, ref in zip(maps, call.inputs)
            if m is not None
        }
        if not axes:
            return [None]
        axis = axes.pop() + output.rank
        if axes:
            return _pin_all(maps, call, space, DIFFERENT_AXES)
        wide = []
        for ref, channel_map in zip(call.inputs, maps):
            if _width(ref, axis - output.rank) == output.shape[axis] != 1:
                wide.append(channel_map)
            else:
                space.pin(channel_map, call.name, "it is broadcast")
        space.tie(wide, call.name, "it joins them with a fixed tensor")
        first = next((m for m in wide if m is not None), None)
        return [None if first is None else ChannelMap(axis, first.ids)]


class ConcatenateRule(LayerRule):
    """Sets tensors side by side along `axis`."""

    def flow(self, call, space):
        (output,) = call.outputs
        maps = [space.map_of(ref) for ref in call.inputs]
        known = [m for m in maps if m is not None]
        if not known:
            return [None]
        if has_array(call):
            return _pin_all(known, call, space, JOINS_ARRAY)
        axis = known[0].axis
        if any(m.axis != axis for m in known):
            return _pin_all(known, call, space, DIFFERENT_AXES)
        if call.operation.axis % output.rank != axis:
            space.tie(maps, call.name, "it stacks them on a fixed tensor")
            return [maps[0] if len(known) == len(maps) else None]
        parts = [
            m.ids if m is not None else np.full(ref.shape[axis], PINNED)
            for m, ref in zip(maps, call.inputs)
        ]
        return [ChannelMap(axis, np.concatenate(parts))]


class SplitRule(LayerRule):
    """`keras.ops.split`: each output holds a run of the channels."""

    def flow(self, call, space):
        read = space.map_of(call.inputs[0])
        if read is None:
            return [None] * len(call.outputs)
        rank = call.inputs[0].rank
        if call.operation.axis % rank != read.axis:
            return [read] * len(call.outputs)
        stops = np.cumsum([ref.shape[read.axis] for ref in call.outputs])[:-1]
        return [ChannelMap(read.axis, ids) for ids in np.split(read.ids, stops)]

    def cut(self, call, inputs, outputs):
        axis = call.operation.axis % call.inputs[0].rank
        if inputs[0] is None or inputs[0].axis != axis:
            return copy_of(call.operation)
        widths = [
            ref.shape[axis] if kept is None else len(kept)
            for ref, kept in zip(call.outputs, outputs)
        ]
        stops = np.cumsum(widths)[:-1].tolist()
        return copy_of(call.operation, indices_or_sections=stops)


def _width(ref, axis_from_end):
    return ref.shape[axis_from_end] if ref.rank >= -axis_from_end else None


def _pin_all(maps, call, space, reason):
    for channel_map in maps:
        space.pin(channel_map, call.name, reason)
    return [None]


def is_concatenation(call: Call) -> bool:
    """Tells whether a call sets tensors side by side, and nothing else."""
    name = type(call.operation).__name__
    return name == "Concatenate" and not has_array(call)


def has_array(call: Call) -> bool:
    """Tells whether an array is among the arguments, beside the tensors."""
    leaves = tree.flatten((call.args, call.kwargs))
    return any(np.ndim(x) for x in leaves if not isinstance(x, TensorRef))
