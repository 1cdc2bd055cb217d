"""Wraps a source model's layers, so that every row has a mask of its own."""

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.graph import ChannelGraph
from kmod.graph.calls import arguments_on
from kmod.graph.rules.table import rule_for
from kmod.layers import ClassMasked
from kmod.layers import ClassMaskedNormalization
from kmod.layers import ClassScaleShift
from kmod.layers import KernelMasks
from kmod.layers import MaskRows
from kmod.layers import RepeatRows
from kmod.layers import SplitRows
from kmod.layers.class_masked import NORMALISERS

FEW_CLASSES = 256  # Of more, a training step has fewer rows.


class MaskedNetwork:
    """The source model as a Keras graph, masks in front of what mixes kernels.

    The *stem*, everything that no mask, scale or shift touches, is computed
    once per image; behind it each tensor has one entry per row.

    Args:
        graph: Channel graph of the flat source model, whose layers are used.
        masks: Layer that holds the masks, `(num_modules, num_groups)`.
        may_go: Boolean array `(num_groups,)`, groups that masks may remove.
        adapted: Names of the layers whose output a class scales and shifts.
        gained: Names of the layers that have a gain for each channel they
            read.

    Attributes:
        image: Symbolic images `(batch, ...)`.
        classes: Symbolic modules of each row, `(batch, rows)`; may be `None`.
        logits: Symbolic logits `(batch, rows, num_logits)`.
        stem: Model from images to a dict of what the body reads.
        body: Model from `[*stem, kernel_masks, classes]` to the logits.
        wrapped: Pairs of a call of the source model and its `ClassMasked`.
        adapters: `ClassScaleShift` layers by the names of adapted layers.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        masks: KernelMasks,
        may_go: np.ndarray,
        adapted=(),
        gained=(),
    ):
        self.graph = graph
        self.masks = masks
        self.may_go = may_go
        self.adapted = adapted
        self.gained = gained
        self.wrapped, self.adapters = [], {}
        self._tensors, self._repeated, self._read = {}, {}, {}
        self._by_row = set()
        self._build()

    def __call__(self, images, kernel_masks, classes=None):
        """Computes the source model's logits for every row, as in use.

        Args:
            images: Tensor `(batch, ...)` as the source model takes it, or
                what `stem` made of it.
            kernel_masks: Tensor of zeros and ones `(num_modules, num_groups)`.
            classes: Integer tensor `(batch, rows)`: the modules that see each
                image. Defaults to all of them.

        Returns:
            Tensor `(batch, rows, num_logits)` in float32.
        """
        values = images
        if not isinstance(images, dict):
            values = self.stem(images, training=False)
        values = [
            ops.convert_to_tensor(values[name]) for name in self.stem.output
        ]
        if classes is not None:
            classes = ops.convert_to_tensor(classes, "int32")
        return self.body([*values, kernel_masks, classes], training=False)

    def unmasked(self, images):
        """Computes the logits of the first module with all kernels.

        Returns:
            Tensor `(batch, num_logits)` in float32.
        """
        everything = ops.ones(self.masks.mask.shape)
        classes = ops.zeros((images.shape[0], 1), "int32")
        return self(images, everything, classes)[:, 0]

    def _build(self):
        traced = self.graph.trace
        self.image = keras.Input(
            traced.input.shape[1:], dtype=traced.input_dtype, name="image"
        )
        self.classes = keras.Input(
            (None,),
            dtype="int32",
            optional=True,
            name=traced.free_name("classes"),
        )
        self._kernel_masks = self._row_masks = self.masks(self.image)
        if self.masks.num_classes > FEW_CLASSES:
            self._row_masks = MaskRows(name=traced.free_name("mask_rows"))(
                self._kernel_masks, self.classes
            )
        self._tensors[traced.input.index] = self.image
        for call in traced.calls:
            self._add(call)
        split = SplitRows(name=traced.free_name("split_rows"))
        self.logits = split(
            self._rows_of(traced.output), self._kernel_masks, self.classes
        )
        read = {f"tensor_{index}": x for index, x in self._read.items()}
        self.stem = keras.Model(self.image, read, name="stem")
        self.body = keras.Model(
            [*read.values(), self._kernel_masks, self.classes],
            self.logits,
            name="body",
        )

    def _add(self, call):
        if self._is_masked(call):
            outputs = self._masked(call)
        else:
            read = self._rows_of if self._is_by_row(call) else self._tensor
            args, kwargs = arguments_on(call, read)
            outputs = call.operation(*args, **kwargs)
            if self._is_by_row(call):
                self._by_row |= {ref.index for ref in call.outputs}
            if call.name in self.adapted:
                outputs = self._adapted_output(call, outputs)
        for ref, tensor in zip(call.outputs, tree.flatten(outputs)):
            self._tensors[ref.index] = tensor

    def _is_masked(self, call):
        """Tells whether a call mixes kernels that masks may remove."""
        if not rule_for(call).mixes(call):
            return False
        groups = self.graph.groups_of(call.inputs[0])
        return groups is not None and bool(
            np.any((groups >= 0) & self.may_go[groups])
        )

    def _is_by_row(self, call):
        return any(ref.index in self._by_row for ref in call.inputs)

    def _tensor(self, ref):
        return self._tensors[ref.index]

    def _read_stem(self, ref):
        """Returns a tensor of the stem that the body reads."""
        self._read[ref.index] = self._tensors[ref.index]
        return self._tensors[ref.index]

    def _rows_of(self, ref):
        """Returns a tensor with one entry for each row."""
        if ref.index in self._by_row:
            return self._tensors[ref.index]
        if ref.index not in self._repeated:
            name = self.graph.trace.free_name(f"rows_{ref.index}")
            self._repeated[ref.index] = RepeatRows(name=name)(
                self._read_stem(ref), self._kernel_masks, self.classes
            )
        return self._repeated[ref.index]

    def _adapted_output(self, call, outputs):
        """Scales and shifts by row what a layer has made."""
        (ref,) = call.outputs
        branches = ref.index not in self._by_row
        if branches:
            self._read[ref.index] = outputs
        adapter = ClassScaleShift(
            self.masks.num_classes,
            self.graph.map_of(ref).axis,
            branches,
            name=self.graph.trace.free_name(f"{call.name}_adapter"),
            dtype=call.operation.dtype_policy,
        )
        self.adapters[call.name] = adapter
        self._by_row.add(ref.index)
        return adapter(outputs, self.classes)

    def _masked(self, call):
        """Calls a layer in a wrapper that masks what it reads."""
        traced = self.graph.trace
        (ref,) = call.inputs
        name, is_adapted = call.name, call.name in self.adapted
        if [each.name for each in traced.calls].count(name) > 1:
            name = traced.free_name(f"{name}_{call.outputs[0].index}")
        branches = ref.index not in self._by_row
        arguments = {
            "layer": call.operation,
            "num_classes": self.masks.num_classes,
            "kernels": self.graph.groups_of(ref),
            "axis": self.graph.map_of(ref).axis,
            "branches": branches,
            "scale_and_shift": is_adapted,
            "name": name,
        }
        if isinstance(call.operation, NORMALISERS):
            wrapper = ClassMaskedNormalization(**arguments)
        else:
            gain = call.name in self.gained
            wrapper = ClassMasked(**arguments, gain=gain)
        self.wrapped.append((call, wrapper))
        if is_adapted:
            self.adapters[call.name] = wrapper.adapter
        self._by_row.add(call.outputs[0].index)
        values = self._read_stem(ref) if branches else self._tensor(ref)
        return wrapper(values, self._row_masks, self.classes)
