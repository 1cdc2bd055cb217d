"""LiteRT files, for phones and small devices."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.composition.forms.answers import answer_function
from kmod.composition.forms.savedmodel import image_spec
from kmod.store.savedmodel import INPUT_NAME
from kmod.store.savedmodel import check_backend

SIGNATURE = "serve"


def write(model: keras.Model, class_names: Sequence[str], path: Path) -> None:
    """Converts a model to LiteRT, which has no classes' names in it.

    Its signature `serve` takes `image` and answers as the SavedModel's does,
    in numbers only.

    Args:
        model: Classifier, or module of one score.
        class_names: Not used; they go into a file of their own.
        path: File to write, ending in `.tflite`.

    Raises:
        UsageError: If Keras does not run on TensorFlow.
    """
    check_backend()
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
        path.write_bytes(converter.convert())


def ask(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of a written LiteRT file, by name."""
    runner = _interpreter(path).get_signature_runner(SIGNATURE)
    return runner(**{INPUT_NAME: keras.ops.convert_to_numpy(images)})


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
