"""The channel graph of a source model."""

import dataclasses

import keras
import numpy as np

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace
from kmod.graph.channels import PINNED
from kmod.graph.channels import ChannelMap
from kmod.graph.channels import ChannelSpace
from kmod.graph.channels import Pin
from kmod.graph.kernels import KernelTable
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.table import rule_for
from kmod.graph.trace import trace

OUTPUT_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax")
_OUTPUT_OPERATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "LogSoftmax": "log_softmax",
}


@dataclasses.dataclass(frozen=True)
class ChannelGraph:
    """Which tensors of a CNN carry which kernels' channels.

    Attributes:
        trace: The model as a list of calls, up to its logits.
        maps: For each tensor index its `ChannelMap`, with one kernel id
            standing for each group; tensors without removable channels are
            not listed.
        kernels: The table of all kernels.
        pins: Why kernels can not be removed.
        num_classes: Number of logits.
        activations: Names of the activations that turn logits into the
            model's answer, in order; they are left out of the graph.
    """

    trace: Trace
    maps: dict[int, ChannelMap]
    kernels: KernelTable
    pins: tuple[Pin, ...]
    num_classes: int
    activations: tuple[str, ...] = ()

    def map_of(self, ref: TensorRef) -> ChannelMap | None:
        return self.maps.get(ref.index)

    def groups_of(self, ref: TensorRef) -> np.ndarray | None:
        """Returns the group behind each channel, -1 where it is fixed."""
        channels = self.maps.get(ref.index)
        if channels is None:
            return None
        groups = self.kernels.groups[np.maximum(channels.ids, 0)]
        return np.where(channels.ids == PINNED, PINNED, groups)


def channel_graph(model: keras.Model) -> ChannelGraph:
    """Traces a classifier and works out what can be removed from it.

    Args:
        model: Built Functional or Sequential classifier, images to
            `(batch, num_classes)` logits or probabilities.

    Returns:
        The `ChannelGraph` up to the logits: a final softmax or sigmoid is
        left out of it.

    Raises:
        UnsupportedModelError: If the model's graph can not be read or its
            output is not one score for each of two or more classes.
    """
    traced, activations = _up_to_logits(trace(model))
    if traced.output.rank != 2 or (traced.output.shape[-1] or 0) < 2:
        raise UnsupportedModelError(
            "A source model answers one score for each of two or more "
            f"classes, `(batch, num_classes)`. Received: {model.name!r} with "
            f"output shape {traced.output.shape}."
        )
    space = ChannelSpace()
    for call in traced.calls:
        for ref, channels in zip(
            call.outputs, rule_for(call).flow(call, space), strict=True
        ):
            space.maps[ref.index] = channels
    space.pin(space.map_of(traced.output), "output", "it is the output")
    graph = _finish(traced, space)
    return dataclasses.replace(graph, activations=activations)


def _up_to_logits(traced):
    """Leaves a final softmax or sigmoid out of a trace.

    Returns:
        The trace and the names of the activations that were left out or are
        part of the output layer.
    """
    calls = list(traced.calls)
    output = traced.output
    names = []
    while calls and (name := _output_activation(calls[-1].operation)):
        names.insert(0, name)
        output = calls.pop().inputs[0]
    traced = dataclasses.replace(traced, output=output, calls=tuple(calls))
    for call in calls:
        if output in call.outputs and (name := fused_activation(call)):
            names.insert(0, name)
    return traced, tuple(names)


def _output_activation(operation):
    """Returns the name of what turns logits into an answer, or `None`."""
    if isinstance(operation, keras.layers.Activation):
        return _name_of(operation.activation)
    if isinstance(operation, keras.layers.Layer):
        is_softmax = isinstance(operation, keras.layers.Softmax)
        return "softmax" if is_softmax else None
    return _OUTPUT_OPERATIONS.get(type(operation).__name__)


def fused_activation(call: Call) -> str | None:
    """Returns the softmax or sigmoid that is part of a layer with kernels."""
    if not isinstance(rule_for(call), KernelRule):
        return None
    return _name_of(call.operation.activation)


def _name_of(activation):
    name = keras.activations.serialize(activation)
    return name if name in OUTPUT_ACTIVATIONS else None


def _finish(traced, space):
    """Drops the output layer's kernels and numbers kernels and groups."""
    roots = space.roots()
    pinned = {root for pin in space.pins for root in roots[pin.kernels]}
    output = [p for p in space.pins if p.layer == "output"]
    of_output = {root for pin in output for root in roots[pin.kernels]}
    owners = {
        name: ids
        for name, ids in space.layers.items()
        if not of_output.intersection(roots[ids])
    }
    old_ids = np.concatenate([*owners.values(), np.zeros(0, int)])
    new_id = np.full(len(roots) + 1, PINNED)  # The last entry: PINNED itself.
    new_id[old_ids] = np.arange(len(old_ids))
    group_roots, groups = np.unique(roots[old_ids], return_inverse=True)
    is_free = np.array([r not in pinned for r in group_roots], bool)
    table = KernelTable(
        tuple(owners),
        np.array([len(ids) for ids in owners.values()], int),
        groups,
        is_free,
    )
    stand_in = np.full(len(roots) + 1, PINNED)
    for kernel in old_ids:
        if roots[kernel] not in pinned:
            stand_in[kernel] = new_id[roots[kernel]]
    maps = {
        index: ChannelMap(m.axis, stand_in[m.ids])
        for index, m in space.maps.items()
        if m is not None and np.any(stand_in[m.ids] != PINNED)
    }
    pins = tuple(
        dataclasses.replace(pin, kernels=new_id[pin.kernels])
        for pin in space.pins
        if pin.layer != "output" and np.all(new_id[pin.kernels] != PINNED)
    )
    return ChannelGraph(traced, maps, table, pins, int(traced.output.shape[-1]))
