"""Reads a Keras model into a flat list of calls."""

import keras
from keras import tree

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace

FUNCTIONAL_WAY_OUT = (
    "Write it with the Functional API, `keras.Model(inputs, outputs)`, or as a "
    "`keras.Sequential`."
)

# What the layers are called that a cut module has besides the source's.
RESERVED_NAMES = (
    "image",
    "head_relu",
    "head_hidden",
    "head",
    "calibration",
    "score",
)


def trace(model: keras.Model) -> Trace:
    """Lists the calls of a model in the order of computation.

    Nested Functional and Sequential models are unfolded, so the list holds
    only layers and Keras operations. The model is read, never changed.

    Args:
        model: Functional or Sequential model with one image input and one
            output, built.

    Returns:
        The `Trace` of the model.

    Raises:
        UnsupportedModelError: If the model is not a Keras 3 Functional or
            Sequential model, is not built, has several inputs or outputs, or
            holds a Lambda layer.
    """
    functional = _functional(model)
    if len(functional.inputs) != 1 or len(functional.outputs) != 1:
        raise UnsupportedModelError(
            "A source model has one input and one output. Received: "
            f"{model.name!r} with {len(functional.inputs)} inputs and "
            f"{len(functional.outputs)} outputs. Cut the part you need out "
            "with `keras.Model(one_input, one_output)`."
        )
    tracer = _Tracer()
    image = tracer.ref(functional.inputs[0])
    (output,) = tracer.run(functional, [image], ())
    return Trace(
        model.name,
        image,
        keras.backend.standardize_dtype(functional.inputs[0].dtype),
        output,
        tuple(tracer.calls),
    )


def _functional(model):
    """Returns the Functional model behind `model`, or refuses it."""
    kind = type(model)
    root = kind.__module__.split(".")[0]
    if root in ("tf_keras", "tensorflow"):
        raise UnsupportedModelError(
            "kmod takes Keras 3 models. Received: a Keras 2 model of type "
            f"{kind.__module__}.{kind.__name__}. Save it with "
            "`model.save('model.h5')` and load it with Keras 3, "
            "`keras.models.load_model('model.h5')`."
        )
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            "A source model is a `keras.Model`. Received: an object of type "
            f"{kind.__module__}.{kind.__name__}."
        )
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise UnsupportedModelError(
                "A Sequential source model must be built. Received: "
                f"{model.name!r}, not built yet. Give it a `keras.Input` as "
                "its first layer, or call it on a batch of images."
            )
        return model._functional
    if not _runs_its_graph(model):
        raise UnsupportedModelError(
            "kmod takes Functional and Sequential models, because their "
            "graph can be read. Received: the subclassed model "
            f"{model.name!r} of type {kind.__name__}. {FUNCTIONAL_WAY_OUT}"
        )
    return model


def _runs_its_graph(model):
    """Tells whether calling `model` means running its Functional graph."""
    for kind in type(model).__mro__:
        if kind.__name__ == "Functional" and kind.__module__.startswith(
            "keras."
        ):
            return type(model).call is kind.call
    return False


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

    def ref(self, tensor):
        self._num_refs += 1
        return TensorRef(self._num_refs - 1, tuple(tensor.shape))

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
        if isinstance(nested, keras.Model) and _runs_its_graph(nested):
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
