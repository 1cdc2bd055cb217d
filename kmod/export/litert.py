"""LiteRT files, for phones and small devices."""

import re
import tempfile
import warnings
from collections.abc import Collection
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.errors import ArtifactError
from kmod.errors import reason_of
from kmod.export.operations import ANSWERING
from kmod.export.operations import called_functions
from kmod.export.operations import refuse
from kmod.export.savedmodel import INPUT_NAME
from kmod.export.savedmodel import answer_function
from kmod.export.savedmodel import image_spec

SIGNATURE = "serve"
# How numbers are kept in fewer bits: activations and weights as bytes, weights
# as half floats, weights as bytes.
QUANTIZATIONS = ("int8", "float16", "dynamic")


def write(
    model: keras.Model,
    class_names: Sequence[str],
    path: Path,
    quantize: str | None = None,
    images: np.ndarray | None = None,
    in_full: Collection[str] = (),
) -> None:
    """Converts a model to LiteRT, without the names of its classes.

    Its signature `serve` takes `image` and answers as the SavedModel's does,
    in numbers only.

    Args:
        model: The model.
        class_names: Its classes.
        path: File to write.
        quantize: One of `QUANTIZATIONS`, or `None` for float32. Images and
            answers remain what they were.
        images: For `"int8"`, images of the model's data type, by which the
            ranges of activations are found.
        in_full: For `"int8"`, names of layers that stay in float32.
    """
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        SIGNATURE, answer_function(model), input_signature=[image_spec(model)]
    )
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[SIGNATURE]
        )
        # What LiteRT lacks may come from TensorFlow, as in Keras' own export.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        kept = []
        if quantize == "int8" and in_full:
            kept = _from_layers_on(converter.convert(), in_full)
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: (
                [image[None]] for image in images
            )
        if kept:
            content = _quantized_but(converter, kept)
        else:
            content = converter.convert()
        path.write_bytes(content)


def _quantized_but(converter, operations):
    """Quantizes a model but for some operations, by their names."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Its interpreter goes some day.
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter,
            debug_dataset=converter.representative_dataset,
            debug_options=tf.lite.experimental.QuantizationDebugOptions(
                denylisted_nodes=operations
            ),
        )
        return debugger.get_nondebug_quantized_model()


def _from_layers_on(content, layers):
    """Names the operations of layers, and those behind them."""
    from tensorflow.lite.python import schema_py_generated as schema

    # A layer's operations lie in a scope of its name and perhaps a number.
    names = "|".join(map(re.escape, layers))
    of_layers = re.compile(rf"(^|.*[/;])({names})(_\d+)*/.*")
    found, reached = [], set()
    model = schema.Model.GetRootAsModel(content, 0)
    for graph, call in _operators(model):
        taken, made = (
            [graph.Tensors(n).Name().decode() for n in tensors if n >= 0]
            for tensors in (call.InputsAsNumpy(), call.OutputsAsNumpy())
        )
        if of_layers.fullmatch(made[0]) or not reached.isdisjoint(taken):
            reached.update(made)
            found.append(made[0])
    return found


def predict(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of a written LiteRT file, by name.

    Raises:
        ArtifactError: If it is damaged or holds operations that must not run.
    """
    _check_operations(path)
    runner = _interpreter(path).get_signature_runner(SIGNATURE)
    return runner(**{INPUT_NAME: keras.ops.convert_to_numpy(images)})


def _check_operations(path):
    """Refuses operations of TensorFlow's that have other effects.

    LiteRT's own have none. It may run TensorFlow's as well, each described by
    its node in the file.
    """
    from flatbuffers import flexbuffers
    from tensorflow.core.framework.node_def_pb2 import NodeDef
    from tensorflow.lite.python import schema_py_generated as schema

    faults = []
    try:
        model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
        for _, call in _operators(model):
            code = model.OperatorCodes(call.OpcodeIndex()).CustomCode()
            if not code:
                continue
            options = flexbuffers.GetRoot(call.CustomOptionsAsNumpy().tobytes())
            name, data, *_ = (part.AsStringBytes for part in options.AsVector)
            node = NodeDef.FromString(data)
            names = {code.removeprefix(b"Flex"), name, node.op.encode()}
            names = {each.decode() for each in names}
            names.update(called_functions(node.attr))
            faults += [f"operation {n!r}" for n in sorted(names - ANSWERING)]
    except Exception as error:  # The readers have no common class of errors.
        raise ArtifactError(
            f"'{path}' is not a LiteRT file that kmod wrote: "
            f"{reason_of(error)}. Make it "
            "again with `kmod export`."
        ) from error
    if faults:
        refuse(path, faults)


def _operators(model):
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for number in range(graph.OperatorsLength()):
            yield graph, graph.Operators(number)


def _interpreter(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        with warnings.catch_warnings():
            # It goes some day; until then it spares users a package.
            warnings.simplefilter("ignore")
            return tf.lite.Interpreter(str(path))
    return Interpreter(str(path))
