"""Writes and reads SavedModels, which any TensorFlow program serves."""

from pathlib import Path
from typing import Any

import keras

from kmod.errors import UsageError
from kmod.modules.operations import check_saved_model

INPUT_NAME = "image"


def export_saved_model(
    model: keras.Model, directory: str | Path, output: str = "score"
) -> None:
    """Exports a model as a SavedModel with named input and output.

    The signatures `serve` and `serving_default` take `image` and answer with a
    dictionary of one entry.

    Args:
        model: Model with one input and one output.
        directory: Directory to write into; files there may be overwritten.
        output: Name of the output. Defaults to `"score"`.

    Raises:
        UsageError: If Keras does not run on TensorFlow.
    """
    check_backend()
    import tensorflow as tf

    (image,) = model.inputs
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda image: {output: model(image, training=False)},
        input_signature=[tf.TensorSpec(image.shape, image.dtype, INPUT_NAME)],
    )
    archive.write_out(str(directory), verbose=False)


def load_saved_model(directory: str | Path) -> Any:
    """Loads a SavedModel, after every operation in it was checked.

    Args:
        directory: Directory of the SavedModel.

    Returns:
        What `tf.saved_model.load` returns.

    Raises:
        ArtifactError: If it is no SavedModel, or holds an operation that no
            module and no composition needs.
    """
    check_saved_model(directory)
    import tensorflow as tf

    return tf.saved_model.load(str(directory))


def check_backend() -> None:
    """Checks that Keras runs on TensorFlow, which writes SavedModels.

    Raises:
        UsageError: If it runs on another backend.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UsageError(
            "SavedModels and what is made of them are written on the "
            f"TensorFlow backend of Keras. Received: backend={backend!r}. Save "
            "the model as a `.keras` file (`--format keras`), set "
            "KERAS_BACKEND=tensorflow, load it and export again."
        )
