"""What is read of Keras that is not public; nothing else of kmod does.

Keras may change it with any minor version, so setup.cfg bounds that.
"""

import contextlib
import math
import random
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.saving import saving_lib

_UNINITIALIZED = "uninitialized_variables"


def parts_of(
    layer: keras.layers.Layer, include_self: bool = True
) -> list[keras.layers.Layer]:
    """Lists a layer or model, and all layers in it."""
    return list(layer._flatten_layers(include_self=include_self))


def takes_training(layer: keras.layers.Layer) -> bool:
    """Tells whether a layer's `call` has the argument `training`."""
    return layer._call_has_training_arg


def graph_of(model: keras.Sequential) -> keras.Model:
    """Returns the Functional model that a built Sequential one runs."""
    return model._functional


def output_structure(model: keras.Model) -> Any:
    """Returns a Functional model's outputs as its author nested them."""
    return model._outputs_struct


def nodes_in_order(model: keras.Model) -> Iterator[Any]:
    """Yields the calls of a Functional model, each behind what it reads."""
    by_depth = model._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


def calls_of(operation: keras.Operation) -> list[Any]:
    """Lists the nodes of all graphs in which an operation is called."""
    return operation._inbound_nodes


def made_by(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that makes a symbolic tensor."""
    return tensor._keras_history.operation


def node_of(tensor: keras.KerasTensor) -> Any:
    """Returns the call that makes a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


@contextlib.contextmanager
def calls_forgotten(layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """Lets layers forget at the end what the block calls them with."""
    marks = [
        (each, len(each._inbound_nodes), len(each._outbound_nodes))
        for each in layers
    ]
    try:
        yield
    finally:
        for each, inbound, outbound in marks:
            del each._inbound_nodes[inbound:], each._outbound_nodes[outbound:]


def remember_attributes() -> None:
    """Lets Keras save and load layers without listing attributes for each.

    It lists those that no layer saves, keeps the list under one name and
    looks for it under another.
    """
    for kind in ("Functional", "Layer", "Operation"):
        skipped = saving_lib.get_attr_skipset(kind)
        global_state.set_global_attribute(
            f"saving_attr_skiplist_{kind}", skipped
        )


def moments(optimizer: keras.optimizers.Adam) -> list[keras.Variable]:
    """Lists the moving means of gradients and of their squares."""
    return [*optimizer._momentums, *optimizer._velocities]


def trained_by(
    optimizer: keras.optimizers.Optimizer,
) -> list[keras.Variable]:
    """Lists the variables that a built optimizer updates, in its order."""
    return [*optimizer._trainable_variables]


def index_in(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> int:
    """Returns the index of a variable among those of an optimizer."""
    return optimizer._get_variable_index(variable)


def declared_bytes(build: Callable[[], Any]) -> int:
    """Returns the size of the weights that a model declares, allocating none.

    Args:
        build: Builds the model. If it fails, what it declared until then
            counts.
    """
    state = random.getstate()  # Initializers draw their seeds.
    before = global_state.get_global_attribute(_UNINITIALIZED, [])
    global_state.set_global_attribute(_UNINITIALIZED, [])
    try:
        with (
            contextlib.suppress(Exception),
            keras.StatelessScope(initialize_variables=False),
        ):
            build()
        declared = global_state.get_global_attribute(_UNINITIALIZED)
        return sum(math.prod(v.shape) * _bits(v.dtype) for v in declared) // 8
    finally:
        global_state.set_global_attribute(_UNINITIALIZED, before)
        random.setstate(state)


def _bits(dtype):
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 8
