"""Exports classifiers as SavedModels that name their classes."""

from collections.abc import Sequence
from pathlib import Path

import keras

from kmod.errors import UsageError
from kmod.store.savedmodel import INPUT_NAME


def export_classifier(
    model: keras.Model, class_names: Sequence[str], directory: str | Path
) -> None:
    """Exports a classifier as a SavedModel that needs nothing but TensorFlow.

    The signatures `serve` and `serving_default` take `image` and answer with
    `probabilities` (float32 `(batch, num_classes)`), `class_id` (int32) and
    `class_name` (string) of the most likely class. The signature
    `class_names` takes nothing and lists all classes.

    Args:
        model: Classifier, images to probabilities.
        class_names: Its classes, in the order of its outputs.
        directory: Directory to write into.

    Raises:
        UsageError: If Keras does not run on TensorFlow.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UsageError(
            "SavedModels are written on the TensorFlow backend of Keras. "
            f"Received: backend={backend!r}. Compose with `--format keras`, "
            "or set KERAS_BACKEND=tensorflow."
        )
    import tensorflow as tf

    def serve(image):
        probabilities = model(image, training=False)
        best = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {
            "probabilities": probabilities,
            "class_id": best,
            "class_name": tf.gather(tf.constant(class_names), best),
        }

    (image,) = model.inputs
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        serve,
        input_signature=[tf.TensorSpec(image.shape, image.dtype, INPUT_NAME)],
    )
    archive.add_endpoint(
        "class_names",
        lambda: {"class_names": tf.constant(class_names)},
        input_signature=[],
    )
    archive.write_out(str(directory), verbose=False)
