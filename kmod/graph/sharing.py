"""Merges models into one graph that holds what they have in common once."""

import collections
import dataclasses
from collections.abc import Container
from collections.abc import Mapping

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
    models: Mapping[str, keras.Model],
) -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """Rebuilds models on one image input, equal parts only once.

    Two calls are equal if layer class, config (without its name), weights and
    inputs are. So models that begin with the same stem share it, and models
    of different weights share nothing.

    Args:
        models: Functional models of one input and one output that take the
            same images. Their keys begin the names of their layers; shared
            layers begin with `shared`. The models are not changed.

    Returns:
        Tuple `(image, outputs)`: the input `image` and each model's output,
        for `keras.Model`.
    """
    first = next(iter(models.values())).inputs[0]
    image = keras.Input(first.shape[1:], dtype=first.dtype, name=IMAGE)
    merger = _Merger(TensorRef(0, tuple(first.shape)))
    refs = {owner: merger.add(owner, models[owner]) for owner in models}
    tensors = merger.build(image)
    return image, {owner: tensors[ref.index] for owner, ref in refs.items()}


@dataclasses.dataclass(frozen=True)
class _Step:
    """A call of the merged graph.

    Attributes:
        call: The call, on tensors of the merged graph.
        owner: The model it was first seen in.
        users: All models that need it.
    """

    call: Call
    owner: str
    users: set[str]


class _Merger:
    """Collects equal calls of several models under one key."""

    def __init__(self, image):
        self._image = image
        self._steps = {}
        self._num_refs = 1

    def add(self, owner, model):
        """Adds a model; returns its output in the merged graph."""
        traced = trace(model)
        refs = {traced.input.index: self._image}
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
            call = dataclasses.replace(
                call, args=args, kwargs=kwargs, outputs=outputs
            )
            self._steps[key] = _Step(call, owner, set())
        return self._steps[key]

    def _new_ref(self, shape):
        self._num_refs += 1
        return TensorRef(self._num_refs - 1, shape)

    def build(self, image):
        """Calls every layer once; returns the tensors by their index."""
        tensors, layers = {self._image.index: image}, {}
        names = self._names()
        for step in self._steps.values():
            call, key = step.call, (step.owner, step.call.name)
            args, kwargs = arguments_on(call, lambda ref: tensors[ref.index])
            weights = None
            if key not in layers:
                layers[key], weights = copy_of(call.operation, name=names[key])
            results = layers[key](*args, **kwargs)
            if weights:
                set_state(layers[key], weights)
            for ref, tensor in zip(call.outputs, tree.flatten(results)):
                tensors[ref.index] = tensor
        return tensors

    def _names(self):
        """Gives every layer of the merged graph a name of its own."""
        users, names = collections.defaultdict(set), {}
        for step in self._steps.values():
            users[step.owner, step.call.name] |= step.users
        for step in self._steps.values():
            key = step.owner, step.call.name
            if key not in names:
                prefix = SHARED if len(users[key]) > 1 else step.owner
                name = step.call.operation.name.replace("/", "_")
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
