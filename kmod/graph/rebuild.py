"""Builds a flat model from a channel graph, whole or cut."""

import keras
import numpy as np
from keras import tree

from kmod.files import keras_name
from kmod.graph.calls import arguments_on
from kmod.graph.channel_graph import ChannelGraph
from kmod.graph.channels import PINNED
from kmod.graph.internals import parts_of
from kmod.graph.rules.base import Kept
from kmod.graph.rules.base import set_state
from kmod.graph.rules.joins import is_concatenation
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.per_channel import TRAINING_ONLY
from kmod.graph.rules.table import rule_for


def rebuild(
    graph: ChannelGraph,
    kernel_mask: np.ndarray | None = None,
    dtype: str | None = "float32",
    name: str | None = None,
) -> keras.Model:
    """Builds a model that holds only the kept kernels, up to the logits.

    The result is a new flat Functional model: nested models are unfolded,
    activations inside convolutions and Dense layers become layers of their
    own, and what acts in training only, such as dropout, is left out. So is
    an input of a concatenation that keeps no kernel. Where the source takes
    bytes it takes float32, 0 to 255 as before, so that modules can be
    composed with others.

    Args:
        graph: Channel graph of the model to copy.
        kernel_mask: 0/1 array `(num_kernels,)`; kernels of one group must
            agree. Defaults to all ones.
        dtype: Data type policy of the new layers. `None` leaves each its own.
        name: Name of the new model; of one that Keras does not take, the slug.
            Defaults to the traced model's.

    Returns:
        Functional `keras.Model`, images to `(batch, num_classes)` logits.
    """
    if kernel_mask is None:
        kernel_mask = np.ones(graph.kernels.num_kernels)
    builder = _Builder(graph, np.asarray(kernel_mask) > 0, dtype)
    return builder.build(name or graph.trace.name)


class _Builder:
    def __init__(self, graph, alive, dtype):
        self.graph = graph
        self.alive = alive
        self.dtype = dtype
        self.layers = {}
        self.tensors = {}

    def build(self, name):
        traced = self.graph.trace
        dtype = traced.input_dtype
        image = keras.Input(
            traced.input.shape[1:],
            dtype="float32" if dtype == "uint8" else dtype,
            name="image",
        )
        self.tensors[traced.input.index] = image
        for call in traced.calls:
            self._add(call)
        logits = self.tensors[traced.output.index]
        return keras.Model(image, logits, name=keras_name(name))

    def _add(self, call):
        if all(self._is_empty(ref) for ref in call.outputs):
            return
        read = [ref for ref in call.inputs if not self._is_empty(ref)]
        is_join = len(call.inputs) > 1 and is_concatenation(call)
        if type(call.operation) in TRAINING_ONLY or (is_join and len(read) < 2):
            (made,) = call.outputs
            self.tensors[made.index] = self.tensors[read[0].index]
            return
        if len(read) < len(call.inputs):
            args, kwargs = [[self.tensors[ref.index] for ref in read]], {}
        else:
            args, kwargs = arguments_on(call, lambda x: self.tensors[x.index])
        new = call.name not in self.layers
        if new:
            self.layers[call.name] = self._replacement(call)
        layer, weights, activation = self.layers[call.name]
        outputs = layer(*args, **kwargs)
        if new and weights:
            set_state(layer, weights)
        if activation is not None:
            outputs = activation(outputs)
        for ref, tensor in zip(call.outputs, tree.flatten(outputs)):
            self.tensors[ref.index] = tensor

    def _replacement(self, call):
        """Returns the cut layer, its weights and its split-off activation."""
        if not isinstance(call.operation, keras.layers.Layer):
            operation, _ = rule_for(call).cut(call, *self._kept(call))
            operation.name = call.name
            return operation, None, None
        rule = rule_for(call)
        layer, weights = rule.cut(call, *self._kept(call))
        given = layer.get_config()
        config = {**given, "name": call.name}
        if "dtype" in config and self.dtype:  # Some layers only hold others.
            config["dtype"] = keras.dtype_policies.serialize(
                keras.dtype_policies.get(self.dtype)
            )
        activation = None
        if isinstance(rule, KernelRule):
            config, activation = self._split_activation(call, config)
        if config != given or layer is call.operation:
            layer = type(layer).from_config(config)
        if self.dtype:
            for part in parts_of(layer, include_self=False):
                part.dtype_policy = self.dtype
        return layer, weights, activation

    def _split_activation(self, call, config):
        """Takes a fused activation out of a kernel layer's config."""
        name = keras.activations.serialize(call.operation.activation)
        if name == "linear" or not isinstance(name, str):
            return config, None
        config = {**config, "activation": "linear"}
        return config, keras.layers.Activation(
            call.operation.activation,
            name=self.graph.trace.free_name(f"{call.name}_activation"),
            dtype=self.dtype or call.operation.dtype_policy,
        )

    def _is_empty(self, ref):
        kept = self._kept_of(ref)
        return kept is not None and not len(kept)

    def _kept(self, call):
        return (
            [self._kept_of(ref) for ref in call.inputs],
            [self._kept_of(ref) for ref in call.outputs],
        )

    def _kept_of(self, ref):
        channels = self.graph.map_of(ref)
        if channels is None:
            return None
        keep = (channels.ids == PINNED) | self.alive[channels.ids]
        return None if keep.all() else Kept(channels.axis, np.flatnonzero(keep))
