"""Measures what the modules of one source have in common at their front."""

from collections.abc import Sequence

import keras
import numpy as np

from kmod.evaluation.sizes import layer_macs
from kmod.graph.trace import trace


def stem_sizes(modules: Sequence[keras.Model]) -> dict[str, int]:
    """Measures the layers that a composition of all modules builds once.

    These are the layers of equal weights that see nothing but the image and
    each other: the part of the source in front of the first mask.

    Args:
        modules: Modules of one source, as `cut_module` made them.

    Returns:
        Dict of the `parameters` and `macs` of those layers.
    """
    layers = _stem_layers(modules)
    macs = layer_macs(modules[0])
    return {
        "parameters": sum(layer.count_params() for layer in layers),
        "macs": sum(macs.get(layer.name, 0) for layer in layers),
    }


def _stem_layers(modules):
    traced = trace(modules[0])
    common, layers = {traced.input.index}, {}
    for call in traced.calls:
        is_reached = all(ref.index in common for ref in call.inputs)
        if is_reached and _is_equal(call.operation, modules):
            common.update(ref.index for ref in call.outputs)
            if isinstance(call.operation, keras.layers.Layer):
                layers[call.operation.name] = call.operation
    return layers.values()


def _is_equal(operation, modules):
    """Tells whether a layer has the same weights in all modules."""
    if not isinstance(operation, keras.layers.Layer):
        return True
    first, *others = (
        module.get_layer(operation.name).get_weights() for module in modules
    )
    return all(
        len(weights) == len(first) and all(map(np.array_equal, weights, first))
        for weights in others
    )
