"""Runs a source model with a mask of its own for every row of a batch."""

import functools
from typing import Any

import numpy as np
from keras import ops

from kmod.graph import ChannelGraph
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import run_call
from kmod.graph.rules.kernels import DepthwiseRule
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.table import rule_for
from kmod.modular.kernel_mask import KernelMask
from kmod.modular.kernel_mask import ScaleShift
from kmod.modular.kernel_mask import to_rows


class MaskedNetwork:
    """The source model's calls, with masks in front of those that mix kernels.

    A *row* is one image seen by one module. Everything that no mask touches,
    the *front*, is computed once per image; behind the first mask each tensor
    has one entry per row, image by image.

    Args:
        graph: Channel graph of the flat source model whose layers are run.
        may_go: Boolean array `(num_groups,)`, groups that masks may remove.
        adapted: Names of the layers whose output a class scales and shifts,
            mapped to their first column in the scale and shift matrices.
        gained: Names of the layers that have a gain for each masked channel
            they read, mapped to their first column in the gain matrix.

    Attributes:
        front: The calls of the front, in order.
        rest: The calls behind it.
        border: The front's tensors that the other calls read.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        may_go: np.ndarray,
        adapted: dict[str, int],
        gained: dict[str, int],
    ):
        self.graph = graph
        self.gained = gained
        self.masks = {}
        self.adapters = {}
        self.by_row = set()
        for call in graph.trace.calls:
            if isinstance(rule_for(call), KernelRule):
                self._place_mask(call.inputs[0], may_go)
            if call.name in adapted:
                (output,) = call.outputs
                self.adapters[output.index] = ScaleShift(
                    adapted[call.name], *_axis_and_width(call)
                )
        self.front, self.rest = self._split()
        self.border = self._read_by_rest()

    def _place_mask(self, ref, may_go):
        groups = self.graph.groups_of(ref)
        if groups is None or not np.any((groups >= 0) & may_go[groups]):
            return
        axis = self.graph.map_of(ref).axis
        self.masks[ref.index] = KernelMask(groups, axis)

    def _split(self) -> tuple[list[Call], list[Call]]:
        """Notes which tensors differ from row to row; returns front, rest."""
        front, rest = [], []
        for call in self.graph.trace.calls:
            mixes = isinstance(rule_for(call), KernelRule)
            outputs = {ref.index for ref in call.outputs}
            if any(
                ref.index in self.by_row or (mixes and ref.index in self.masks)
                for ref in call.inputs
            ):
                rest.append(call)
                self.by_row |= outputs
            else:
                front.append(call)
                self.by_row |= outputs & self.adapters.keys()
        return front, rest

    def _read_by_rest(self) -> list[TensorRef]:
        read = {ref.index for call in self.rest for ref in call.inputs}
        read |= {*self.adapters, self.graph.trace.output.index}
        made = [ref for call in self.front for ref in call.outputs]
        made.append(self.graph.trace.input)
        return [ref for ref in made if ref.index in read]

    @property
    def border_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the tensors of `border`, without the batch axis."""
        return [ref.shape[1:] for ref in self.border]

    def front_values(self, images) -> dict[str, Any]:
        """Computes the tensors of `border`, by their names.

        Args:
            images: Tensor `(batch, ...)` as the source model takes it.
        """
        traced = self.graph.trace
        values = {traced.input.index: ops.cast(images, traced.input_dtype)}
        for call in self.front:
            values |= run_call(call, lambda ref: values[ref.index])
        return {_name(ref): values[ref.index] for ref in self.border}

    def __call__(self, images, mask, scale, shift, gain, classes=None):
        """Computes the source model's logits for every row.

        Args:
            images: Tensor `(batch, ...)` as the source model takes it, or
                what `front_values` made of it.
            mask: Tensor of zeros and ones `(num_modules, num_groups)`.
            scale: Tensor `(num_modules, num_adapted)`.
            shift: Tensor `(num_modules, num_adapted)`.
            gain: Tensor `(num_modules, num_gained)`, or `None` for none.
            classes: Integer tensor `(batch, rows)`: the modules that see each
                image. Defaults to all of them.

        Returns:
            Tensor `(batch, rows, num_logits)` in float32.
        """
        run = self._run(images, mask, scale, shift, gain, classes)
        return run.logits(self.graph.trace.output)

    def masked_values(self, images) -> list[tuple[np.ndarray, int, Any]]:
        """Computes the tensors that masks multiply, with all kernels.

        Args:
            images: As in a call.

        Returns:
            Tuples `(groups, axis, tensor)`: the kernel group behind each
            channel, -1 for none, the channel axis and the tensor
            `(batch, ...)`.
        """
        run = self._run_whole(images)
        return [
            (layer.columns, layer.axis, run.values[index])
            for index, layer in self.masks.items()
        ]

    def unmasked(self, images):
        """Computes the source model's logits with all kernels.

        Args:
            images: As in a call.

        Returns:
            Tensor `(batch, num_logits)` in float32.
        """
        run = self._run_whole(images)
        return run.logits(self.graph.trace.output)[:, 0]

    def _run_whole(self, images):
        """Runs one row for each image, of which nothing is removed."""
        everything = ops.ones((1, self.graph.kernels.num_groups))
        width = sum(len(layer.columns) for layer in self.adapters.values())
        scale, shift = ops.ones((1, width)), ops.zeros((1, width))
        return self._run(images, everything, scale, shift, None, None)

    def _run(self, images, *weights):
        values = images
        if not isinstance(images, dict):
            values = self.front_values(images)
        run = _Rows(self, values, *weights)
        for call in self.rest:
            run.add(call)
        return run


def unmasked_network(graph: ChannelGraph) -> MaskedNetwork:
    """Rebuilds a source model to compare it with; nothing is trained.

    Args:
        graph: Channel graph of the source model.

    Returns:
        Network whose layers compute in the data types of the source's.
    """
    flat = channel_graph(rebuild(graph, dtype=None))
    return MaskedNetwork(flat, flat.kernels.free, {}, {})


class _Rows:
    """Runs the calls behind the front, for every row of a batch."""

    def __init__(self, network, values, mask, scale, shift, gain, classes):
        self.network = network
        self.mask, self.scale, self.shift = mask, scale, shift
        self.gain = gain
        self.classes = classes
        self.num_rows = mask.shape[0] if classes is None else classes.shape[1]
        self.values, self.masked = {}, {}
        for ref in network.border:
            self._keep(ref, values[_name(ref)], False)

    def add(self, call):
        """Computes the outputs of one call."""
        read = self._value
        if isinstance(rule_for(call), KernelRule):
            read = functools.partial(self._masked, reader=call.name)
        outputs = run_call(call, read)
        for ref in call.outputs:
            self._keep(ref, outputs[ref.index], True)

    def logits(self, output):
        value = ops.cast(self._value(output), "float32")
        return ops.reshape(value, (-1, self.num_rows, value.shape[-1]))

    def _value(self, ref):
        value = self.values[ref.index]
        if ref.index in self.network.by_row:
            return value
        return to_rows(value, self.num_rows)

    def _masked(self, ref, reader):
        """Returns the tensor times its mask and the reader's gain."""
        layer = self.network.masks.get(ref.index)
        if layer is None:
            return self._value(ref)
        first = None
        if self.gain is not None:
            first = self.network.gained.get(reader)
        key = ref.index, first  # Readers without a gain share the product.
        if key not in self.masked:
            gain = None
            if first is not None:
                gain = self.gain[:, first : first + len(layer.columns)]
            self.masked[key] = layer(
                self.values[ref.index],
                self.mask,
                self.classes,
                ref.index in self.network.by_row,
                gain,
            )
        return self.masked[key]

    def _keep(self, ref, value, is_by_row):
        """Keeps a tensor's value, scaled and shifted where classes do so."""
        layer = self.network.adapters.get(ref.index)
        if layer is not None:
            value = layer(
                value, self.scale, self.shift, self.classes, is_by_row
            )
        self.values[ref.index] = value


def _name(ref):
    return f"tensor_{ref.index}"


def _axis_and_width(call):
    (output,) = call.outputs
    rule = rule_for(call)
    if isinstance(rule, (KernelRule, DepthwiseRule)):
        first = getattr(call.operation, "data_format", "") == "channels_first"
        axis = 1 if first else output.rank - 1
    else:
        axis = call.operation.axis % output.rank
    return axis, output.shape[axis]
