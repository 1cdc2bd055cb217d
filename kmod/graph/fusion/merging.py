"""Merges calls that do alike into one call on a wide tensor."""

import collections
from collections.abc import Sequence

import keras
from keras import layers
from keras import tree

from kmod.graph import copy_of
from kmod.graph import set_state
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.fusion import wide_layers
from kmod.graph.fusion.kinds import is_pooling
from kmod.graph.fusion.kinds import kind_of
from kmod.graph.fusion.kinds import likeness
from kmod.graph.fusion.views import Tensors
from kmod.graph.fusion.views import View
from kmod.graph.fusion.views import Wide
from kmod.graph.fusion.views import covers
from kmod.graph.fusion.views import view_of
from kmod.graph.fusion.views import views_of
from kmod.graph.fusion.views import whole
from kmod.graph.fusion.views import wides_of
from kmod.graph.sharing import unique_name

JOIN_FROM = 4  # So many tensors are joined to be pooled at once.
WIDE = "all"


class Merger:
    """Builds calls level by level, calls of one level that are alike as one.

    Args:
        input: The tensor of images.
        image: The input of the new model.
        spare: Multiply-accumulates with zeros that may be added in all.
    """

    def __init__(self, input: TensorRef, image: keras.KerasTensor, spare: int):
        self._views = {input.index: view_of(image)}
        self._tensors = Tensors(self._free_name)
        self._layers = {}
        self._names = {image.name}
        self._spare = spare

    def run(self, calls: Sequence[Call], output: TensorRef):
        """Returns the tensor that stands for `output`."""
        uses = collections.Counter(call.name for call in calls)
        for level in _levels(calls):
            groups = collections.defaultdict(list)
            for call in level:
                kind = kind_of(call) if uses[call.name] == 1 else None
                groups[self._key(call, kind)].append(call)
            for (kind, *_), group in groups.items():
                self._add(kind, group)
        return self._tensors.of(self._views[output.index])

    def _key(self, call, kind):
        if kind is None:
            return None, call.outputs[0].index
        is_flat = tuple(view.is_flat for view in self._inputs(call))
        return kind, likeness(call), is_flat

    def _add(self, kind, group):
        merge = {
            "linear": self._add_linear,
            "channelwise": self._add_channelwise,
            "concatenate": self._add_concatenations,
            "flatten": self._add_flat,
        }.get(kind)
        if len(group) == 1 or not merge(group):
            for call in group:
                self._add_alone(call, kind)

    def _inputs(self, call) -> list[View]:
        return [self._views[ref.index] for ref in call.inputs]

    def _add_alone(self, call, kind):
        inputs = self._inputs(call)
        if kind == "concatenate" and _is_whole(inputs):
            layer = layers.Identity(name=self._name([call]))
            tensors = layer(inputs[0].parts[0][0].tensor)
        else:
            own = [self._tensors.of(view) for view in inputs]
            tensors = self._call_own(call, own)
        for ref, tensor in zip(call.outputs, tree.flatten(tensors)):
            self._views[ref.index] = view_of(tensor)

    def _call_own(self, call, tensors):
        """Calls a copy of a call's layer, the same one at every call."""
        if call.name in self._layers:
            return _call(call, self._layers[call.name], tensors)
        layer, weights = copy_of(call.operation, name=self._name([call]))
        self._layers[call.name] = layer
        outputs = _call(call, layer, tensors)
        if weights:
            set_state(layer, weights)
        return outputs

    def _add_linear(self, group):
        """Joins layers of the same input, and small Dense ones of any."""
        inputs = [self._inputs(call)[0] for call in group]
        if self._add_diagonal(group, inputs):
            return True
        same = collections.defaultdict(list)
        for call, view in zip(group, inputs):
            same[view].append(call)
        for view, calls in same.items():
            if len(calls) == 1:
                self._add_alone(calls[0], "linear")
            else:
                operations = [call.operation for call in calls]
                self._add_wide(calls, view, wide_layers.beside(operations))
        return True

    def _add_diagonal(self, group, inputs):
        operations = [call.operation for call in group]
        if not wide_layers.is_dense(operations[0], group[0].outputs[0].shape):
            return False
        added = wide_layers.added_macs(operations, inputs)
        if added is None or added > self._spare:
            return False
        self._spare -= added
        inputs = self._tensors.widen(inputs)
        read = whole(inputs[0].parts[0][0], inputs[0].is_flat)
        self._add_wide(group, read, wide_layers.diagonal(operations, inputs))
        return True

    def _add_wide(self, calls, view, config_and_weights):
        config, weights = config_and_weights
        kind = type(calls[0].operation)
        layer = kind.from_config({**config, "name": self._name(calls)})
        tensor = layer(self._tensors.of(view))
        layer.set_weights(weights)
        sizes = [call.outputs[0].shape[-1] for call in calls]
        views = views_of(tensor, sizes)
        self._views |= {c.outputs[0].index: v for c, v in zip(calls, views)}

    def _add_channelwise(self, group):
        """Works on the wide tensors that the group's inputs make up."""
        rows = self._repeat_shared([self._inputs(call) for call in group])
        if is_pooling(group[0]) and len(wides_of(sum(rows, []))) >= JOIN_FROM:
            rows = [[view] for view in self._tensors.widen(sum(rows, []))]
        if not all(map(_is_aligned, rows)) or not all(map(covers, zip(*rows))):
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
                    made[key] = views_of(tensor, key[0].sizes)
            self._views[call.outputs[0].index] = View(
                tuple(
                    made[key][index].parts[0]
                    for key, (_, index) in zip(of_call, row[0].parts)
                )
            )
        return True

    def _repeat_shared(self, rows):
        """Repeats a tensor that all read, so that it lies as the others do.

        Args:
            rows: Views that each call reads.
        """
        columns = list(zip(*rows))
        pattern = next(filter(_is_one_each, columns), None)
        if pattern is None:
            return rows
        ((like, _),) = pattern[0].parts
        for index, column in enumerate(columns):
            same = {view.parts for view in column}
            if len(same) == 1 and like.sizes == column[0].sizes * len(column):
                copies = [self._tensors.of(column[0])] * len(column)
                wide = Wide(self._tensors.beside(copies), like.sizes)
                columns[index] = [
                    View(((wide, v.parts[0][1]),)) for v in pattern
                ]
        return [list(row) for row in zip(*columns)]

    def _add_concatenations(self, group):
        """Nothing is done until somebody reads what was joined."""
        rows = [self._inputs(call) for call in group]
        if any(view.is_flat for row in rows for view in row):
            return False
        for call, row in zip(group, rows):
            parts = sum((view.parts for view in row), ())
            self._views[call.outputs[0].index] = View(parts)
        return True

    def _add_flat(self, group):
        """Nothing is done until somebody reads what was flattened."""
        for call in group:
            (view,) = self._inputs(call)
            is_flat = view.is_flat or call.inputs[0].rank > 2
            self._views[call.outputs[0].index] = View(view.parts, is_flat)
        return True

    def _name(self, calls):
        name = common_name([call.operation.name for call in calls])
        return self._free_name(name.replace("/", "_"))

    def _free_name(self, name):
        name = unique_name(name, self._names)
        self._names.add(name)
        return name


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


def _call(call, layer, tensors):
    """Calls `layer` as a call does its own, on these tensors."""
    indices = (ref.index for ref in call.inputs)
    by_index = dict(zip(indices, tensors, strict=True))
    args, kwargs = tree.map_structure(
        lambda x: by_index[x.index] if isinstance(x, TensorRef) else x,
        (call.args, call.kwargs),
    )
    return layer(*args, **kwargs)


def _levels(calls):
    """Groups calls by how many others stand between them and the image."""
    depth, levels = collections.defaultdict(int), []
    for call in calls:
        level = max((depth[ref.index] for ref in call.inputs), default=0)
        for ref in call.outputs:
            depth[ref.index] = level + 1
        levels += [[]] * (level + 1 - len(levels))
        levels[level] = [*levels[level], call]
    return levels


def _is_one_each(views):
    """Tells whether views are all the parts of one wide tensor, one each."""
    parts = [view.parts for view in views]
    every = {(part,) for wide in wides_of(views) for part in whole(wide).parts}
    return (
        len(wides_of(views)) == 1
        and len(parts) == len(every)
        and set(parts) == every
        and not any(view.is_flat for view in views)
    )


def _is_whole(views):
    """Tells whether views side by side are just one wide tensor."""
    parts = sum((view.parts for view in views), ())
    is_flat = any(view.is_flat for view in views)
    return not is_flat and View(parts) == whole(parts[0][0])


def _is_aligned(row):
    """Tells whether the inputs of a call lie alike in their wide tensors."""
    layouts = {
        tuple((wide.sizes, index) for wide, index in view.parts) for view in row
    }
    return len(layouts) == 1 and not any(view.is_flat for view in row)


def _keys(row):
    """Returns for each part of a call's output the wide tensors it needs."""
    return list(
        zip(*([wide for wide, _ in view.parts] for view in row), strict=True)
    )
