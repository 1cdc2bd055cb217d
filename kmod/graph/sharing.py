"""Merges models into one graph that holds what they have in common once."""

import collections
import dataclasses
from collections.abc import Container
from collections.abc import Iterable

import keras
from keras import tree

from kmod.files import data_digest
from kmod.graph import copy_of
from kmod.graph import set_state
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import arguments_on
from kmod.graph.content import weight_digests
from kmod.graph.trace import trace

IMAGE = "image"
SHARED = "shared"


def merge_models(
    models: Iterable[tuple[str, keras.Model]],
) -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """Rebuilds models on one image input, equal parts only once.

    Two calls are equal if layer class, config (without its name), weights and
    inputs are. So models that begin with the same stem share it, and models
    of different weights share nothing.

    Args:
        models: Pairs of a name and a functional model of one input and one
            output, all of which take the same images. The names begin those
            of the models' layers; shared layers begin with `shared`. The
            models are not changed. Each is read when its turn comes and then
            let go, so an iterator need not keep them all in memory.

    Returns:
        Tuple `(image, outputs)`: the input `image` and each model's output,
        for `keras.Model`.
    """
    merger = _Merger()
    refs = {owner: merger.add(owner, model) for owner, model in models}
    image, tensors = merger.build()
    return image, {owner: tensors[ref.index] for owner, ref in refs.items()}


@dataclasses.dataclass(frozen=True)
class _Step:
    """A call of the merged graph.

    Attributes:
        call: The call, on tensors of the merged graph, without the layer: that
            would keep the model it comes from in memory.
        layer: Name of the layer in its model.
        owner: The model it was first seen in.
        users: All models that need it.
    """

    call: Call
    layer: str
    owner: str
    users: set[str]


class _Merger:
    """Collects equal calls of several models under one key."""

    def __init__(self):
        self._image = None
        self._ref = None
        self._steps = {}
        self._copies = {}
        self._num_refs = 0

    def add(self, owner, model):
        """Adds a model; returns its output in the merged graph."""
        if self._image is None:
            first = model.inputs[0]
            self._image = keras.Input(
                first.shape[1:], dtype=first.dtype, name=IMAGE
            )
            self._ref = self._new_ref(tuple(first.shape))
        traced = trace(model)
        refs = {traced.input.index: self._ref}
        for call in traced.calls:
            step = self._step(owner, call, refs)
            step.users.add(owner)
            for old, new in zip(call.outputs, step.call.outputs, strict=True):
                refs[old.index] = new
        return refs[traced.output.index]

    def _step(self, owner, call, refs):
        args, kwargs = arguments_on(call, lambda ref: refs[ref.index])
        key = _digest(call, refs)
        if key not in self._steps:
            outputs = tuple(self._new_ref(ref.shape) for ref in call.outputs)
            layer = owner, call.name
            if layer not in self._copies:
                self._copies[layer] = copy_of(call.operation)
            name = call.operation.name
            call = dataclasses.replace(
                call, operation=None, args=args, kwargs=kwargs, outputs=outputs
            )
            self._steps[key] = _Step(call, name, owner, set())
        return self._steps[key]

    def _new_ref(self, shape):
        self._num_refs += 1
        return TensorRef(self._num_refs - 1, shape)

    def build(self):
        """Calls every layer; returns the image and all tensors by index."""
        tensors, layers = {self._ref.index: self._image}, {}
        names = self._names()
        for step in self._steps.values():
            call, key = step.call, (step.owner, step.call.name)
            args, kwargs = arguments_on(call, lambda ref: tensors[ref.index])
            weights = None
            if key not in layers:
                copy, weights = self._copies.pop(key)
                layers[key], _ = copy_of(copy, name=names[key])
            results = layers[key](*args, **kwargs)
            if weights:
                set_state(layers[key], weights)
            for ref, tensor in zip(call.outputs, tree.flatten(results)):
                tensors[ref.index] = tensor
        return self._image, tensors

    def _names(self):
        """Gives every layer of the merged graph a name of its own."""
        users, names = collections.defaultdict(set), {}
        for step in self._steps.values():
            users[step.owner, step.call.name] |= step.users
        for step in self._steps.values():
            key = step.owner, step.call.name
            if key not in names:
                prefix = SHARED if len(users[key]) > 1 else step.owner
                name = step.layer.replace("/", "_")
                names[key] = unique_name(f"{prefix}_{name}", names.values())
        return names


def unique_name(name: str, taken: Container[str]) -> str:
    """Returns a name, with the first number behind it that is not taken."""
    stem, number = name, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name


def _digest(call, refs):
    """Identifies what a call does to which tensors, apart from its name."""
    config = keras.saving.serialize_keras_object(call.operation)
    config.pop("build_config", None)
    del config["config"]["name"]
    is_layer = isinstance(call.operation, keras.layers.Layer)
    weights = weight_digests(call.operation) if is_layer else []
    inputs = arguments_on(call, lambda ref: {"tensor": refs[ref.index].index})
    plain = keras.saving.serialize_keras_object(list(inputs))
    return data_digest([config, weights, plain])
