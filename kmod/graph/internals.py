"""What is read of Keras that is not public; nothing else of kmod does.

Keras may change it with any minor version, so setup.cfg bounds that.
"""

import contextlib
import math
import random
import re
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state

_UNINITIALIZED = "uninitialized_variables"


def parts_of(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields a layer or model, and all layers in it."""
    yield from layer._flatten_layers()


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
