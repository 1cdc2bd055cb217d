"""Runs a source model with a mask of its own for every row of a batch."""

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.graph import ChannelGraph
from kmod.graph.calls import TensorRef
from kmod.graph.rules.kernels import DepthwiseRule
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.table import rule_for
from kmod.masks.kernel_mask import KernelMask
from kmod.masks.kernel_mask import ScaleShift
from kmod.masks.kernel_mask import to_rows


class MaskedNetwork:
    """The source model's calls, with masks in front of those that mix kernels.

    A *row* is one image seen by one module. Everything that no mask touches
    is computed once per image; behind the first mask each tensor has one
    entry per row, image by image.

    Args:
        graph: Channel graph of the flat source model whose layers are run.
        may_go: Boolean array `(num_groups,)`, groups that masks may remove.
        adapted: Names of the layers whose output a class scales and shifts,
            mapped to their first column in the scale and shift matrices.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        may_go: np.ndarray,
        adapted: dict[str, int],
    ):
        self.graph = graph
        self.masks = {}
        self.adapters = {}
        for call in graph.trace.calls:
            if isinstance(rule_for(call), KernelRule):
                self._place_mask(call.inputs[0], may_go)
            if call.name in adapted:
                (output,) = call.outputs
                self.adapters[output.index] = ScaleShift(
                    adapted[call.name], *_axis_and_width(call)
                )

    def _place_mask(self, ref, may_go):
        groups = self.graph.groups_of(ref)
        if groups is None or not np.any((groups >= 0) & may_go[groups]):
            return
        axis = self.graph.map_of(ref).axis
        self.masks[ref.index] = KernelMask(groups, axis)

    def __call__(self, images, mask, scale, shift, classes=None):
        """Computes the source model's logits for every row.

        Args:
            images: Tensor `(batch, ...)` as the source model takes it.
            mask: Tensor of zeros and ones `(num_modules, num_groups)`.
            scale: Tensor `(num_modules, num_adapted)`.
            shift: Tensor `(num_modules, num_adapted)`.
            classes: Integer tensor `(batch, rows)`: the modules that see each
                image. Defaults to all of them.

        Returns:
            Tensor `(batch, rows, num_logits)` in float32.
        """
        run = _Run(self, images, mask, scale, shift, classes)
        for call in self.graph.trace.calls:
            run.add(call)
        return run.logits(self.graph.trace.output)


class _Run:
    """One forward pass: the values of the tensors computed so far."""

    def __init__(self, network, images, mask, scale, shift, classes):
        self.network = network
        self.mask, self.scale, self.shift = mask, scale, shift
        self.classes = classes
        self.num_rows = mask.shape[0] if classes is None else classes.shape[1]
        self.values = {network.graph.trace.input.index: images}
        self.by_row = set()
        self.masked = {}

    def add(self, call):
        """Computes the outputs of one call."""
        consumes = isinstance(rule_for(call), KernelRule)
        read = self._masked if consumes else self._value
        any_row = any(self._is_by_row(ref, consumes) for ref in call.inputs)
        args, kwargs = tree.map_structure(
            lambda x: read(x, any_row) if isinstance(x, TensorRef) else x,
            (call.args, call.kwargs),
        )
        if isinstance(call.operation, keras.layers.Layer):
            kwargs = {**kwargs, **_inference(call.operation)}
        outputs = tree.flatten(call.operation(*args, **kwargs))
        for ref, value in zip(call.outputs, outputs):
            self.values[ref.index] = value
            if any_row:
                self.by_row.add(ref.index)
            self._adapt(ref)

    def logits(self, output):
        value = ops.cast(self._value(output, True), "float32")
        return ops.reshape(value, (-1, self.num_rows, value.shape[-1]))

    def _is_by_row(self, ref, consumes):
        return ref.index in self.by_row or (
            consumes and ref.index in self.network.masks
        )

    def _value(self, ref, by_row):
        value = self.values[ref.index]
        if by_row and ref.index not in self.by_row:
            return to_rows(value, self.num_rows)
        return value

    def _masked(self, ref, by_row):
        """Returns the tensor times its mask, worked out once."""
        layer = self.network.masks.get(ref.index)
        if layer is None:
            return self._value(ref, by_row)
        if ref.index not in self.masked:
            self.masked[ref.index] = layer(
                self.values[ref.index],
                self.mask,
                self.classes,
                ref.index in self.by_row,
            )
        return self.masked[ref.index]

    def _adapt(self, ref):
        layer = self.network.adapters.get(ref.index)
        if layer is not None:
            self.values[ref.index] = layer(
                self.values[ref.index],
                self.scale,
                self.shift,
                self.classes,
                ref.index in self.by_row,
            )
            self.by_row.add(ref.index)


def _inference(layer):
    """Asks layers that tell training from use to behave as in use."""
    return {"training": False} if layer._call_has_training_arg else {}


def _axis_and_width(call):
    (output,) = call.outputs
    rule = rule_for(call)
    if isinstance(rule, (KernelRule, DepthwiseRule)):
        first = getattr(call.operation, "data_format", "") == "channels_first"
        axis = 1 if first else output.rank - 1
    else:
        axis = call.operation.axis % output.rank
    return axis, output.shape[axis]
