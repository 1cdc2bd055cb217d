"""Reads a Keras model into a flat list of calls."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import tree

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace
from kmod.graph.calls import arguments_on
from kmod.graph.calls import run_trace
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


def trace(
    model: keras.Model, input_shape: Sequence[int] | None = None
) -> Trace:
    """Lists the calls of a model in the order of computation.

    Nested Functional and Sequential models are unfolded, so the list holds
    only layers and Keras operations; what a KerasHub task does to images in
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
        refs = {
            id(t): ref for t, ref in zip(functional.inputs, inputs, strict=True)
        }
        for node in _nodes_in_order(functional):
            if all(id(t) in refs for t in node.input_tensors):
                outputs = self._call(node, refs, path)
                refs.update(
                    (id(t), ref)
                    for t, ref in zip(node.outputs, outputs, strict=True)
                )
        return [refs[id(t)] for t in functional.outputs]

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
            nested = operation._functional
        if isinstance(nested, keras.Model) and runs_its_graph(operation):
            return self.run(nested, inputs, (*path, operation.name))
        _refuse_lambda(operation)
        _refuse_quantized(operation)
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


def _nodes_in_order(functional):
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node
