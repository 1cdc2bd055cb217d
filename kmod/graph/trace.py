"""Reads a Keras model into a flat list of calls.

Layers that are made of Keras layers are opened, so that the kernels inside
can be removed.
"""

import dataclasses
import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace
from kmod.graph.calls import arguments_on
from kmod.graph.calls import run_trace
from kmod.graph.internals import calls_forgotten
from kmod.graph.internals import graph_of
from kmod.graph.internals import node_of
from kmod.graph.internals import nodes_in_order
from kmod.graph.internals import parts_of
from kmod.graph.rules.table import has_rule
from kmod.graph.sources import functional_of
from kmod.graph.sources import is_preprocessing
from kmod.graph.sources import preprocessing
from kmod.graph.sources import runs_its_graph
from kmod.graph.sources import sized

# What the layers are called that a cut module has besides the source's.
RESERVED_NAMES = (
    "image",
    "head_relu",
    "head_hidden",
    "head",
    "calibration",
    "score",
)


# Sizes that a model leaves open, where a layer is tried on random tensors.
TRIED_BATCH = 2
TRIED_SIZE = 16


def trace(
    model: keras.Model, input_shape: Sequence[int] | None = None
) -> Trace:
    """Lists the calls of a model in the order of computation.

    Nested Functional and Sequential models are unfolded, and so is a layer of
    other than Keras' own classes, for which kmod has no rule, if all of it is
    Keras layers and operations that answer the same. So the list holds only
    layers and Keras operations; what a KerasHub task does to images in
    `predict` comes first. The model is read, never changed.

    Args:
        model: Functional or Sequential model with one image input and one
            output, built.
        input_shape: Shape of the images where the model leaves sizes open,
            such as `(96, 96, 3)`. Defaults to what a KerasHub task resizes
            images to, and else to leaving them open.

    Returns:
        The `Trace` of the model.

    Raises:
        UnsupportedModelError: If the model is not a Keras 3 Functional or
            Sequential model, is not built, has several inputs, does more in
            `predict` than can be read, or holds a Lambda layer.
        UsageError: If `input_shape` does not fit it, or it has several outputs.
    """
    functional = functional_of(model)
    tracer = _Tracer()
    shape, front = tuple(functional.inputs[0].shape), []
    if is_preprocessing(model):
        front, wanted = preprocessing(model, input_shape)
    else:
        wanted = sized(shape, input_shape, model.name)
    image = features = TensorRef(tracer.next_index(), wanted)
    for layer in front:
        features = tracer.add_call(layer, features)
    (answer,) = tracer.run(functional, [features], ())
    traced = Trace(
        model.name,
        image,
        keras.backend.standardize_dtype(functional.inputs[0].dtype),
        answer,
        tuple(tracer.calls),
    )
    return traced if wanted == shape and not front else _with_shapes(traced)


def _with_shapes(traced):
    """Works the shapes of all tensors out anew, from that of the image."""

    class Runner(keras.layers.Layer):
        def call(self, images):
            values = run_trace(traced, images)
            return {str(index): value for index, value in values.items()}

    image = keras.KerasTensor(traced.input.shape, traced.input_dtype)
    specs = Runner().compute_output_spec(image)

    def anew(ref):
        return TensorRef(ref.index, tuple(specs[str(ref.index)].shape))

    calls = []
    for call in traced.calls:
        args, kwargs = arguments_on(call, anew)
        calls.append(
            dataclasses.replace(
                call,
                args=args,
                kwargs=kwargs,
                inputs=tuple(map(anew, call.inputs)),
                outputs=tuple(map(anew, call.outputs)),
            )
        )
    return dataclasses.replace(
        traced, output=anew(traced.output), calls=tuple(calls)
    )


def _refuse_lambda(operation):
    if isinstance(operation, keras.layers.Lambda):
        raise UnsupportedModelError(
            "A source model has no Lambda layers, because modules with one "
            "can not be loaded safely. Received: the Lambda layer "
            f"{operation.name!r}. Call `keras.ops` on the tensors instead, or "
            "write it as a `keras.layers.Layer` of your own."
        )


def _refuse_quantized(operation):
    mode = getattr(operation, "quantization_mode", None)
    if mode is not None:
        raise UnsupportedModelError(
            "A source model has the weights that it was trained with, because "
            "quantised ones can not be cut. Received: the layer "
            f"{operation.name!r} in {mode!r}. Give the model as it was before "
            "`quantize`, and quantise what is made of it."
        )


class _Tracer:
    """Collects calls; one instance for one trace."""

    def __init__(self):
        self.calls = []
        self._refs = {}
        self._num_refs = 0
        self._names = {}
        self._taken = set(RESERVED_NAMES)

    def next_index(self):
        self._num_refs += 1
        return self._num_refs - 1

    def ref(self, tensor):
        return TensorRef(self.next_index(), tuple(tensor.shape))

    def add_call(self, layer, ref):
        """Adds a call of a layer on one tensor; returns what it makes.

        Its shape is that of `ref` until all are worked out.
        """
        made = TensorRef(self.next_index(), ref.shape)
        name = self._name(layer, ())
        self.calls.append(Call(name, layer, (ref,), {}, (ref,), (made,)))
        return made

    def run(self, functional, inputs, path):
        """Traces one (nested) model; returns the refs of its outputs."""
        nodes = nodes_in_order(functional)
        return self._run(
            nodes, functional.inputs, functional.outputs, inputs, path
        )

    def _run(self, nodes, tensors, results, inputs, path):
        refs = {id(t): ref for t, ref in zip(tensors, inputs, strict=True)}
        for node in nodes:
            if all(id(t) in refs for t in node.input_tensors):
                outputs = self._call(node, refs, path)
                refs.update(
                    (id(t), ref)
                    for t, ref in zip(node.outputs, outputs, strict=True)
                )
        return [refs[id(t)] for t in results]

    def _call(self, node, refs, path):
        args, kwargs = node.arguments.convert(
            lambda x: refs[id(x)] if isinstance(x, keras.KerasTensor) else x
        )
        inputs = tuple(
            leaf
            for leaf in tree.flatten((args, kwargs))
            if isinstance(leaf, TensorRef)
        )
        operation = node.operation
        nested = operation
        if isinstance(operation, keras.Sequential):
            nested = graph_of(operation)
        if isinstance(nested, keras.Model) and runs_its_graph(operation):
            return self.run(nested, inputs, (*path, operation.name))
        _refuse_lambda(operation)
        _refuse_quantized(operation)
        parts = None if has_rule(operation) else _parts_of(node)
        if parts is not None:
            return self._run(*parts, inputs, (*path, operation.name))
        outputs = tuple(self.ref(t) for t in node.outputs)
        self.calls.append(
            Call(
                self._name(operation, path),
                operation,
                args,
                kwargs,
                inputs,
                outputs,
            )
        )
        return outputs

    def _name(self, operation, path):
        """Names an operation once, uniquely over nested models."""
        if id(operation) not in self._names:
            name = operation.name.replace("/", "_")
            if name in self._taken:
                name = "_".join((*path, name)).replace("/", "_")
            stem, number = name, 1
            while name in self._taken:
                number += 1
                name = f"{stem}_{number}"
            self._taken.add(name)
            self._names[id(operation)] = name
        return self._names[id(operation)]


def _parts_of(node):
    """Opens the layer that a node calls, if it is made of Keras layers.

    Returns:
        Tuple `(nodes, inputs, outputs)` of what happens inside, with the
        tensors between; `None` if the layer is Keras' own, holds no others,
        or does more than to call layers and operations.
    """
    layer = node.operation
    is_own = isinstance(layer, keras.layers.Layer)
    is_own &= type(layer).__module__.split(".")[0] != "keras"
    layers = parts_of(layer, include_self=False) if is_own else []
    if not layers:
        return None
    try:
        with calls_forgotten(layers):
            parts = _call_symbolically(node)
            is_all = _holds_all(layer, parts) and _is_same(node, parts)
            return parts if is_all else None
    except Exception:  # Whatever code of others raises on symbolic tensors.
        return None


def _patches(layer, images):
    """Writes the first layer of KerasHub's ViT with Keras layers.

    That layer repeats a weight over the batch, whose size symbols lack, and
    can not be made again from its config.
    """
    x = layer.patch_embedding(images)
    if layer.data_format == "channels_first":
        x = keras.layers.Permute((2, 3, 1))(x)
    x = keras.layers.Reshape((layer.num_patches, layer.hidden_dim))(x)
    offset = ops.convert_to_numpy(layer.position_embedding.embeddings)
    if layer.use_class_token:
        x = keras.layers.ZeroPadding1D((1, 0))(x)
        offset = offset.copy()
        offset[0] += ops.convert_to_numpy(layer.class_token)[0, 0]
    rescaling = keras.layers.Rescaling(1.0, offset.tolist())
    return rescaling(x)


# Layers that hold what no call of Keras' layers would show, by class name.
WRITTEN = {"ViTPatchingAndEmbedding": _patches}


def _call_symbolically(node):
    def symbol(x):
        if not isinstance(x, keras.KerasTensor):
            return x
        inputs.append(keras.KerasTensor(x.shape, x.dtype))
        return inputs[-1]

    inputs = []
    args, kwargs = _arguments(node, symbol)
    written = WRITTEN.get(type(node.operation).__name__)
    call = node.operation.call
    if written is not None:
        call = functools.partial(written, node.operation)
    outputs = tree.flatten(call(*args, **kwargs))
    nodes, seen = [], {id(x) for x in inputs}

    def visit(tensor):
        if id(tensor) in seen:
            return
        made_by = node_of(tensor)
        for each in made_by.input_tensors:
            visit(each)
        seen.update(id(each) for each in made_by.outputs)
        nodes.append(made_by)

    for tensor in outputs:
        visit(tensor)
    return nodes, inputs, outputs


def _arguments(node, read):
    """Returns the arguments of a call in use, other tensors in its place."""
    args, kwargs = node.arguments.convert(read)
    return args, {k: x for k, x in kwargs.items() if k != "training"}


def _holds_all(layer, parts):
    """Tells whether the parts have all of a layer's weights, and no others."""
    if type(layer).__name__ in WRITTEN:  # In their configs.
        return True
    nodes, _, _ = parts
    found = {
        id(weight)
        for node in nodes
        if isinstance(node.operation, keras.layers.Layer)
        for weight in node.operation.weights
    }
    constants = any(
        isinstance(leaf, keras.Variable)
        for node in nodes
        for leaf in tree.flatten(_arguments(node, lambda x: x))
    )
    return not constants and {id(w) for w in layer.weights} <= found


def _is_same(node, parts):
    """Tells whether the parts answer just as the layer, on random tensors."""
    nodes, inputs, results = parts
    draw = np.random.default_rng(0)
    values = {}
    for tensor in inputs:
        batch, *sizes = tensor.shape
        shape = [batch or TRIED_BATCH, *(size or TRIED_SIZE for size in sizes)]
        value = ops.convert_to_tensor(draw.normal(size=shape), "float32")
        values[id(tensor)] = ops.cast(value, tensor.dtype)
    given = iter([values[id(tensor)] for tensor in inputs])
    args, kwargs = _arguments(
        node, lambda x: next(given) if isinstance(x, keras.KerasTensor) else x
    )
    with keras.device("cpu:0"):
        expected = tree.flatten(node.operation(*args, **kwargs))
        for each in nodes:
            args, kwargs = _arguments(each, lambda x: values.get(id(x), x))
            made = tree.flatten(each.operation(*args, **kwargs))
            values.update(zip(map(id, each.outputs), made, strict=True))
    return all(
        np.array_equal(
            ops.convert_to_numpy(x), ops.convert_to_numpy(values[id(y)])
        )
        for x, y in zip(expected, results, strict=True)
    )
