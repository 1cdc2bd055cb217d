"""Lays a model out so that many small branches run fast."""

import collections
import json
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np
from keras import layers
from keras import tree

from kmod.graph import copy_of
from kmod.graph import set_state
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import arguments_on
from kmod.graph.fusion.folding import fold
from kmod.graph.fusion.slices import Slice
from kmod.graph.fusion.slices import SliceReader
from kmod.graph.fusion.slices import are_complete
from kmod.graph.fusion.slices import slices_of
from kmod.graph.fusion.slices import wide_tensors
from kmod.graph.rules.joins import ConcatenateRule
from kmod.graph.rules.joins import ElementwiseRule
from kmod.graph.rules.joins import has_array
from kmod.graph.rules.kernels import CONVOLUTIONS
from kmod.graph.rules.per_channel import ActivationRule
from kmod.graph.rules.per_channel import PassThrough
from kmod.graph.rules.per_channel import SpatialRule
from kmod.graph.rules.per_channel import is_elementwise
from kmod.graph.rules.reshaping import GlobalPoolingRule
from kmod.graph.rules.table import rule_for
from kmod.graph.sharing import unique_name
from kmod.graph.sizes import model_sizes
from kmod.graph.trace import trace

DENSE_SHARE = 0.01
PARAMETERS_TO_MACS = 2  # Of that share. Zeros make files larger, too.
JOIN_FROM = 4  # So many tensors are joined to be pooled at once.
WIDE = "all"

Category = Literal["linear", "channelwise", "concatenate", "flatten"]
ConfigAndWeights = tuple[dict[str, Any], list[np.ndarray]]

# What may differ between layers that one wide layer stands for.
_OWN = ("name", "filters", "units", "trainable")
_OWN_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def fuse(model: keras.Model, dense_share: float = DENSE_SHARE) -> keras.Model:
    """Rebuilds a model for use, with fewer and larger layers.

    What is done one after the other by linear layers is done by one:
    BatchNormalization goes into the convolution or Dense layer in front, and
    so do activations and Dense layers without one between them. What is done
    to many tensors alike is done once: layers that read the same tensor become
    a wide one, and pooling, activations and joins work on wide tensors as far
    as they go. Convolutions of unlike inputs stay apart, since one grouped
    convolution takes twice as long on a CPU; Dense layers, and
    convolutions of images of one pixel, are joined with zeros between them,
    where that costs little. The answers stay the same to float32
    rounding. What acts in training only, such as dropout, is left out.

    Args:
        model: Functional model of built-in layers with one input and one
            output. It is not changed. Layers of other kinds stay as they are.
        dense_share: Multiply-accumulates with those zeros that may be added,
            as a share of the model's, or twice that share of its parameters
            if that is less.

    Returns:
        Functional model of the same input, output and name. Layers that stand
        alone keep their names.

    Raises:
        UnsupportedModelError: If the model's graph can not be read.
    """
    traced = trace(model)
    calls, output = fold(traced)
    image = keras.Input(
        traced.input.shape[1:],
        dtype=traced.input_dtype,
        name=model.inputs[0].name,
    )
    # Multiply-accumulates of images of unknown size can not be counted.
    is_known = None not in traced.input.shape[1:]
    spare = 0.0
    if is_known:
        sizes = model_sizes(model)
        most = min(sizes.macs, PARAMETERS_TO_MACS * sizes.parameters)
        spare = dense_share * most
    fuser = _Fuser(traced.input, image, round(spare))
    return keras.Model(image, fuser.run(calls, output), name=model.name)


class _Fuser:
    """Builds calls level by level, those of one signature together.

    Args:
        input: The tensor of images.
        image: The input of the new model.
        spare: Zeros that may be added to weights in all.
    """

    def __init__(self, input, image, spare):
        (whole,) = slices_of(image, [image.shape[-1]])
        self._slices = {input.index: whole}
        self._tensors = SliceReader(self._free_name)
        self._layers = {}
        self._names = {image.name}
        self._spare = spare

    def run(self, calls: Sequence[Call], output: TensorRef):
        """Returns the tensor that stands for `output`."""
        uses = collections.Counter(call.name for call in calls)
        for level in _levels(calls):
            groups = collections.defaultdict(list)
            for call in level:
                category = category_of(call) if uses[call.name] == 1 else None
                groups[self._key(call, category)].append(call)
            for (category, *_), group in groups.items():
                self._add(category, group)
        return self._tensors.read(self._slices[output.index])

    def _key(self, call, category):
        if category is None:
            return None, call.outputs[0].index
        is_flat = tuple(one.is_flat for one in self._inputs(call))
        return category, signature(call), is_flat

    def _add(self, category, group):
        merge = {
            "linear": self._merge_linear,
            "channelwise": self._merge_channelwise,
            "concatenate": self._merge_concatenations,
            "flatten": self._merge_flattening,
        }.get(category)
        if len(group) == 1 or not merge(group):
            for call in group:
                self._add_alone(call, category)

    def _inputs(self, call) -> list[Slice]:
        return [self._slices[ref.index] for ref in call.inputs]

    def _add_alone(self, call, category):
        inputs = self._inputs(call)
        if category == "concatenate" and _is_whole(inputs):
            layer = layers.Identity(name=self._name([call]))
            made = layer(inputs[0].parts[0][0].tensor)
        else:
            made = self._call_copy(call, [*map(self._tensors.read, inputs)])
        for ref, tensor in zip(call.outputs, tree.flatten(made)):
            (self._slices[ref.index],) = slices_of(tensor, [tensor.shape[-1]])

    def _call_copy(self, call, tensors):
        """Calls a copy of a call's layer, the same one at every call."""
        weights = None
        if call.name not in self._layers:
            self._layers[call.name], weights = copy_of(
                call.operation, name=self._name([call])
            )
        made = _call(call, self._layers[call.name], tensors)
        if weights:
            set_state(self._layers[call.name], weights)
        return made

    def _merge_linear(self, group):
        """Joins layers of the same input, and small Dense ones of any."""
        inputs = [self._inputs(call)[0] for call in group]
        if self._merge_dense(group, inputs):
            return True
        same = collections.defaultdict(list)
        for call, one in zip(group, inputs):
            same[one].append(call)
        for one, calls in same.items():
            if len(calls) == 1:
                self._add_alone(calls[0], "linear")
            else:
                operations = [call.operation for call in calls]
                self._add_wide(calls, one, side_by_side(operations))
        return True

    def _merge_dense(self, group, inputs):
        operations = [call.operation for call in group]
        if not acts_as_dense(operations[0], group[0].outputs[0].shape):
            return False
        added = added_zeros(operations, inputs)
        if added is None or added > self._spare:
            return False
        self._spare -= added
        inputs = self._tensors.gather(inputs)
        (wide,) = wide_tensors(inputs)
        read = Slice(wide.parts, inputs[0].is_flat)
        self._add_wide(group, read, block_diagonal(operations, inputs))
        return True

    def _add_wide(self, calls, read, config_and_weights):
        config, weights = config_and_weights
        kind = type(calls[0].operation)
        layer = kind.from_config({**config, "name": self._name(calls)})
        tensor = layer(self._tensors.read(read))
        layer.set_weights(weights)
        made = slices_of(tensor, [call.outputs[0].shape[-1] for call in calls])
        self._slices |= {c.outputs[0].index: s for c, s in zip(calls, made)}

    def _merge_channelwise(self, group):
        """Works on the wide tensors that the group's inputs make up."""
        rows = self._repeat_shared([self._inputs(call) for call in group])
        inputs = sum(rows, [])
        if is_pooling(group[0]) and len(wide_tensors(inputs)) >= JOIN_FROM:
            rows = [[one] for one in self._tensors.gather(inputs)]
        if not all(map(_is_aligned, rows)):
            return False
        if not all(map(are_complete, zip(*rows))):
            return False
        keys = [_keys(row) for row in rows]
        if len({key for of_call in keys for key in of_call}) >= len(group):
            return False
        made = {}
        for call, row, of_call in zip(group, rows, keys):
            for key in of_call:
                if key not in made:
                    layer, _ = copy_of(call.operation, name=self._name(group))
                    tensor = _call(call, layer, [wide.tensor for wide in key])
                    made[key] = slices_of(tensor, key[0].sizes)
            self._slices[call.outputs[0].index] = Slice(
                tuple(
                    made[key][index].parts[0]
                    for key, (_, index) in zip(of_call, row[0].parts)
                )
            )
        return True

    def _repeat_shared(self, rows):
        """Repeats a tensor that all read, so that it lies as the others do.

        Args:
            rows: Slices that each call reads.
        """
        columns = list(zip(*rows))
        pattern = next(filter(_is_one_each, columns), None)
        if pattern is None:
            return rows
        (wide,) = wide_tensors(pattern)
        for index, column in enumerate(columns):
            same = {one.parts for one in column}
            if len(same) == 1 and wide.sizes == column[0].sizes * len(column):
                copies = [self._tensors.read(column[0])] * len(column)
                repeated = slices_of(
                    self._tensors.concatenate(copies), wide.sizes
                )
                columns[index] = [repeated[one.parts[0][1]] for one in pattern]
        return [list(row) for row in zip(*columns)]

    def _merge_concatenations(self, group):
        """Nothing is done until somebody reads what was joined."""
        rows = [self._inputs(call) for call in group]
        if any(one.is_flat for row in rows for one in row):
            return False
        for call, row in zip(group, rows):
            parts = sum((one.parts for one in row), ())
            self._slices[call.outputs[0].index] = Slice(parts)
        return True

    def _merge_flattening(self, group):
        """Nothing is done until somebody reads what was flattened."""
        for call in group:
            (one,) = self._inputs(call)
            is_flat = one.is_flat or call.inputs[0].rank > 2
            self._slices[call.outputs[0].index] = Slice(one.parts, is_flat)
        return True

    def _name(self, calls):
        name = common_name([call.operation.name for call in calls])
        return self._free_name(name.replace("/", "_"))

    def _free_name(self, name):
        name = unique_name(name, self._names)
        self._names.add(name)
        return name


def category_of(call: Call) -> Category | None:
    """Tells how calls such as this one are merged, `None` if they are not."""
    operation = call.operation
    if getattr(operation, "data_format", None) == "channels_first":
        return None
    if type(operation) in (layers.Dense, *CONVOLUTIONS):
        return "linear" if getattr(operation, "groups", 1) == 1 else None
    if type(operation) is layers.Flatten:
        return "flatten"
    rule, rank = rule_for(call), call.outputs[0].rank
    if isinstance(rule, ConcatenateRule):
        return "concatenate" if operation.axis % rank == rank - 1 else None
    return "channelwise" if _is_channelwise(call, rule) else None


def _is_channelwise(call, rule):
    if has_array(call):
        return False
    if type(rule) is ActivationRule:
        return is_elementwise(call.operation.activation)
    if type(rule) is PassThrough:
        is_built_in = type(call.operation).__module__.startswith("keras.")
        return is_built_in and not rule.weights
    return type(rule) in (SpatialRule, GlobalPoolingRule, ElementwiseRule)


def is_pooling(call: Call) -> bool:
    """Tells whether a call makes an image smaller, channel by channel."""
    return "Pooling" in type(call.operation).__name__


def signature(call: Call) -> tuple[Any, ...]:
    """Returns what calls have in common that one call can do together.

    These are calls of the same kind of layer, of the same config but for its
    number of kernels, on tensors that differ in their channels only.
    """
    config = {
        key: value
        for key, value in call.operation.get_config().items()
        if key not in _OWN and not key.endswith(_OWN_ENDINGS)
    }
    arguments = list(arguments_on(call, lambda ref: "tensor"))
    plain = keras.saving.serialize_keras_object([config, arguments])
    return (
        type(call.operation),
        json.dumps(plain, sort_keys=True, default=str),
        tuple(ref.shape[:-1] for ref in call.inputs),
    )


def common_name(names: Sequence[str]) -> str:
    """Names what stands for several layers by what their names end with."""
    if len(names) == 1:
        return names[0]
    words = zip(*(reversed(name.split("_")) for name in names))
    common = []
    for same in words:
        if len(set(same)) > 1:
            break
        common.append(same[0])
    return "_".join([WIDE, *reversed(common)]) if common else names[0]


def side_by_side(operations: Sequence[keras.layers.Layer]) -> ConfigAndWeights:
    """Returns the layer that does what layers of the same input do.

    Returns:
        Its config and weights; their outputs lie side by side in its output.
    """
    weights = zip(*(operation.get_weights() for operation in operations))
    return _config(operations), [np.concatenate(w, axis=-1) for w in weights]


def acts_as_dense(
    operation: keras.layers.Layer, output_shape: Sequence[int | None]
) -> bool:
    """Tells whether a linear layer does what a Dense layer does.

    Convolutions of size 1 do, of images of one pixel.
    """
    sizes = (*getattr(operation, "kernel_size", ()), *output_shape[1:-1])
    return {1}.issuperset(sizes)


def added_zeros(
    operations: Sequence[keras.layers.Layer], inputs: Sequence[Slice]
) -> int | None:
    """Counts the zeros that `block_diagonal` puts between layers.

    Args:
        operations: Layers that `acts_as_dense` is true of.
        inputs: What each of them reads.

    Returns:
        The count, `None` if it is not known.
    """
    sizes = [size for wide in wide_tensors(inputs) for size in wide.sizes]
    if None in sizes:
        return None
    kernels = [_matrix(operation) for operation in operations]
    positions = len(kernels[0]) // sum(inputs[0].sizes)
    units = sum(kernel.shape[1] for kernel in kernels)
    return positions * sum(sizes) * units - sum(k.size for k in kernels)


def block_diagonal(
    operations: Sequence[keras.layers.Layer], inputs: Sequence[Slice]
) -> ConfigAndWeights:
    """Returns the layer that does what layers of unlike inputs do.

    Args:
        operations: Layers that `acts_as_dense` is true of.
        inputs: What each of them reads, all in the same wide tensor.

    Returns:
        Config and weights of the layer that reads all of that tensor; their
        outputs lie side by side in its output.
    """
    (wide,) = wide_tensors(inputs)
    starts = np.cumsum(wide.sizes) - wide.sizes
    columns = []
    for operation, one in zip(operations, inputs):
        kernel = _matrix(operation)
        rows = np.concatenate(
            [starts[i] + np.arange(wide.sizes[i]) for _, i in one.parts]
        )
        positions = len(kernel) // len(rows)
        column = np.zeros((positions, sum(wide.sizes), kernel.shape[1]))
        column[:, rows] = kernel.reshape(positions, len(rows), -1)
        columns.append(column.reshape(-1, kernel.shape[1]))
    biases = zip(*(operation.get_weights()[1:] for operation in operations))
    kernel = np.concatenate(columns, axis=-1)
    ones = operations[0].get_weights()[0].shape[:-2]
    kernel = kernel.reshape(*ones, *kernel.shape)
    return _config(operations), [kernel, *map(np.concatenate, biases)]


def _matrix(operation):
    """Returns a layer's kernel as `(inputs, outputs)`."""
    kernel = operation.get_weights()[0]
    return kernel.reshape(-1, kernel.shape[-1])


def _config(operations):
    config = operations[0].get_config()
    size = "units" if "units" in config else "filters"
    return {**config, size: sum(getattr(o, size) for o in operations)}


def _call(call, layer, tensors):
    """Calls `layer` as a call does its own, on these tensors."""
    indices = (ref.index for ref in call.inputs)
    by_index = dict(zip(indices, tensors, strict=True))
    args, kwargs = arguments_on(call, lambda ref: by_index[ref.index])
    return layer(*args, **kwargs)


def _levels(calls):
    """Groups calls by how many others stand between them and the image."""
    depth = collections.defaultdict(int)
    levels = collections.defaultdict(list)
    for call in calls:
        level = max((depth[ref.index] for ref in call.inputs), default=0)
        depth.update((ref.index, level + 1) for ref in call.outputs)
        levels[level].append(call)
    return levels.values()


def _is_one_each(slices):
    """Tells whether slices are all the parts of one wide tensor, one each."""
    wides = wide_tensors(slices)
    parts = [one.parts for one in slices]
    return (
        len(wides) == 1
        and len(parts) == len(wides[0].parts)
        and set(parts) == {(part,) for part in wides[0].parts}
        and not any(one.is_flat for one in slices)
    )


def _is_whole(slices):
    """Tells whether slices side by side are just one wide tensor."""
    parts = sum((one.parts for one in slices), ())
    is_flat = any(one.is_flat for one in slices)
    return not is_flat and parts == parts[0][0].parts


def _is_aligned(row):
    """Tells whether the inputs of a call lie alike in their wide tensors."""
    layouts = {
        tuple((wide.sizes, index) for wide, index in one.parts) for one in row
    }
    return len(layouts) == 1 and not any(one.is_flat for one in row)


def _keys(row):
    """Returns for each part of a call's output the wide tensors it needs."""
    return list(
        zip(*([wide for wide, _ in one.parts] for one in row), strict=True)
    )
