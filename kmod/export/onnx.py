"""ONNX files, for runtimes other than TensorFlow."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.export.operations import refuse
from kmod.export.savedmodel import INPUT_NAME
from kmod.export.savedmodel import answer_function
from kmod.export.savedmodel import image_spec

OWN_DOMAINS = {"", "ai.onnx"}


def write(model: keras.Model, class_names: Sequence[str], path: Path) -> None:
    """Converts a model to ONNX, without the names of its classes.

    It takes `image` and answers as the SavedModel does, in numbers only.

    Raises:
        UsageError: If the packages of the extra `onnx` are missing.
    """
    import tensorflow as tf

    tf2onnx, _ = _packages()
    # Not `model.export(format="onnx")`: in Keras 3.15 that traces the model as
    # in training, so that BatchNormalization answers otherwise.
    function = tf.function(
        answer_function(model), input_signature=[image_spec(model)]
    )
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About names that NumPy dropped.
        tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            output_path=str(path),
        )


def predict(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of a written ONNX file, by name.

    Raises:
        ArtifactError: If it is damaged, or not of ONNX's own operators alone
            with all weights in it.
    """
    _, onnxruntime = _packages()
    _check_operators(path)
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    inputs = {INPUT_NAME: keras.ops.convert_to_numpy(images)}
    return dict(zip(names, session.run(names, inputs), strict=True))


def _check_operators(path):
    """Refuses operators of others, and weights in other files."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # Protobuf's classes of errors vary.
        raise ArtifactError(
            f"'{path}' is not an ONNX file: {reason_of(error)}. Make it again "
            "with `kmod "
            "export`."
        ) from error
    faults = [f"function {each.name!r}" for each in model.functions]
    for part in _parts(model.graph):
        if isinstance(part, onnx.NodeProto) and part.domain not in OWN_DOMAINS:
            faults.append(f"operator {part.domain}.{part.op_type}")
        if isinstance(part, onnx.TensorProto) and part.external_data:
            faults.append(f"weights in another file, {part.name!r}")
    if faults:
        refuse(path, faults)


def _parts(graph):
    """Yields every tensor and node of a graph and those inside them."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _parts(inner)


def _packages():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnxruntime
            import tf2onnx
    except ImportError as error:
        raise UsageError(
            "ONNX files are written with tf2onnx and compared with "
            f"onnxruntime. Received: {error}. Install them with `pip install "
            "'kmod[onnx]'`, or choose another format."
        ) from error
    return tf2onnx, onnxruntime
