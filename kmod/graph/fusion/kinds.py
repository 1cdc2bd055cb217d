"""Which calls do alike, so that one call could do them together."""

import json
from typing import Any
from typing import Literal

import keras
import numpy as np
from keras import layers
from keras import tree

from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.fusion.folding import CONVOLUTIONS
from kmod.graph.rules.joins import ConcatenateRule
from kmod.graph.rules.joins import ElementwiseRule
from kmod.graph.rules.per_channel import ActivationRule
from kmod.graph.rules.per_channel import PassThrough
from kmod.graph.rules.per_channel import SpatialRule
from kmod.graph.rules.per_channel import is_elementwise
from kmod.graph.rules.reshaping import GlobalPoolingRule
from kmod.graph.rules.table import rule_for

Kind = Literal["linear", "channelwise", "concatenate", "flatten"]

# What may differ between layers that one wide layer stands for.
_OWN = ("name", "filters", "units", "trainable")
_TRAINING_ONLY = ("_initializer", "_regularizer", "_constraint")


def kind_of(call: Call) -> Kind | None:
    """Returns how calls such as this one are merged, `None` if they are not."""
    operation = call.operation
    if getattr(operation, "data_format", None) == "channels_first":
        return None
    kind = type(operation)
    if kind is layers.Dense or kind in CONVOLUTIONS:
        return "linear" if getattr(operation, "groups", 1) == 1 else None
    if kind is layers.Flatten:
        return "flatten"
    rule = rule_for(call)
    if isinstance(rule, ConcatenateRule):
        is_last = operation.axis % call.outputs[0].rank
        return "concatenate" if is_last == call.outputs[0].rank - 1 else None
    return "channelwise" if _is_channelwise(call, rule) else None


def _is_channelwise(call, rule):
    leaves = tree.flatten((call.args, call.kwargs))
    if any(np.ndim(x) for x in leaves if not isinstance(x, TensorRef)):
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


def likeness(call: Call) -> tuple[Any, ...]:
    """Returns a key that is the same for calls that do alike.

    These are calls of the same kind of layer, of the same config but for its
    number of kernels, on tensors that differ in their channels only.
    """
    config = {
        key: value
        for key, value in call.operation.get_config().items()
        if key not in _OWN and not key.endswith(_TRAINING_ONLY)
    }
    arguments = tree.map_structure(
        lambda x: "tensor" if isinstance(x, TensorRef) else x,
        (call.args, call.kwargs),
    )
    plain = keras.saving.serialize_keras_object([config, arguments])
    return (
        type(call.operation),
        json.dumps(plain, sort_keys=True, default=str),
        tuple(ref.shape[:-1] for ref in call.inputs),
    )
