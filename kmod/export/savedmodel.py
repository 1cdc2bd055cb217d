"""SavedModels that name their classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.export.answers import answer_function
from kmod.modules.savedmodel import INPUT_NAME
from kmod.modules.savedmodel import check_backend
from kmod.modules.savedmodel import load_saved_model


def write(model: keras.Model, class_names: Sequence[str], path: Path) -> None:
    """Exports a model as a SavedModel that needs nothing but TensorFlow.

    The signatures `serve` and `serving_default` take `image`. Of a module
    they answer with its `score`. Of a classifier they answer with
    `probabilities` (float32 `(batch, num_classes)`), `class_id` (int32) and
    `class_name` (string) of the most likely class, the first one of several,
    and with `logits` if those are what it answers with. Its signature
    `class_names` takes nothing and lists all classes.

    Args:
        model: Classifier, or module of one score.
        class_names: Its classes, in the order of its outputs.
        path: Directory to write into.

    Raises:
        UsageError: If Keras does not run on TensorFlow.
    """
    check_backend()
    import tensorflow as tf

    answer = answer_function(model)

    def serve(image):
        answers = answer(image)
        if "probabilities" not in answers:
            return answers
        best = tf.argmax(
            answers["probabilities"], axis=-1, output_type=tf.int32
        )
        names = tf.gather(tf.constant(class_names), best)
        return {**answers, "class_id": best, "class_name": names}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[image_spec(model)])
    archive.add_endpoint(
        "class_names",
        lambda: {"class_names": tf.constant(class_names)},
        input_signature=[],
    )
    archive.write_out(str(path), verbose=False)


def ask(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of a written SavedModel, by name.

    Raises:
        ArtifactError: If it holds operations that must not run.
    """
    exported = load_saved_model(path)
    return {
        name: values.numpy() for name, values in exported.serve(images).items()
    }


def image_spec(model: keras.Model) -> Any:
    """Returns TensorFlow's description of a model's input, named `image`."""
    import tensorflow as tf

    (image,) = model.inputs
    return tf.TensorSpec(image.shape, image.dtype, INPUT_NAME)
