"""Lays a model out so that many small branches run fast."""

import collections

import keras

from kmod.graph.fusion.folding import fold
from kmod.graph.fusion.merging import Merger
from kmod.graph.fusion.one_pixel import on_one_pixel
from kmod.graph.sizes import model_sizes
from kmod.graph.trace import trace

DENSE_SHARE = 0.01


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
            as a share of the model's.

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
    uses = collections.Counter(call.name for call in calls)
    calls = [on_one_pixel(c) if uses[c.name] == 1 else c for c in calls]
    merger = Merger(traced.input, image, round(dense_share * _macs(model)))
    return keras.Model(image, merger.run(calls, output), name=model.name)


def _macs(model):
    """Counts multiply-accumulates; of images of unknown size, none."""
    return 0 if None in model.input_shape[1:] else model_sizes(model).macs
