"""Which kernels of a module respond to an image."""

import keras
import numpy as np
from keras import ops

from kmod.graph.calls import run_trace
from kmod.graph.channel_graph import ChannelGraph
from kmod.graph.channel_graph import channel_graph
from kmod.graph.channels import PINNED

BATCH_SIZE = 128


def kernel_responses(
    model: keras.Model, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Measures how strongly kernels respond to images.

    Args:
        model: A module, or another classifier that can be taken apart.
        images: Array `(n, ...)` as it takes them.

    Returns:
        For every layer that has kernels which can be removed a float32 array
        `(n, num_kernels)`: the mean over all places of a kernel's channel
        where the next kernels read it, behind normalisation and activation.
        Of kernels that a residual join ties, those of the first layer are
        measured, behind the join.
    """
    graph = channel_graph(model)
    tensors = _last_tensors(graph)
    found = {layer: [] for layer in tensors}
    for start in range(0, len(images), BATCH_SIZE):
        batch = ops.convert_to_tensor(
            images[start : start + BATCH_SIZE], "float32"
        )
        values = run_trace(graph.trace, batch)
        for layer, index in tensors.items():
            axis = graph.maps[index].axis
            value = values[index]
            places = [
                each for each in range(1, len(value.shape)) if each != axis
            ]
            mean = ops.mean(value, axis=places) if places else value
            found[layer].append(ops.convert_to_numpy(mean))
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def _last_tensors(graph: ChannelGraph) -> dict[str, int]:
    """Finds for every layer the last tensor of its kernels alone."""
    table = graph.kernels
    owners = np.repeat(np.arange(len(table.layers)), table.counts)
    found = {}
    for call in graph.trace.calls:
        for ref in call.outputs:
            channels = graph.map_of(ref)
            if channels is None or np.any(channels.ids == PINNED):
                continue
            layers = np.unique(owners[channels.ids])
            is_whole = len(np.unique(channels.ids)) == len(channels.ids)
            if len(layers) == 1 and is_whole:
                found[table.layers[layers[0]]] = ref.index
    return found
