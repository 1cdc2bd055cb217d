"""SavedModels, which any TensorFlow program serves, and what they answer.

Modules and composed models are written here, and here is the one place that
loads a SavedModel.
"""

import contextlib
import errno
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.data.streaming import quiet_tensorflow
from kmod.errors import ArtifactError
from kmod.errors import reason_of
from kmod.export.operations import check_saved_model

INPUT_NAME = "image"
LARGE = 4096  # Numbers of a weight; to copy fewer takes no time.
ALIGNMENT = 64  # Bytes.
# TensorFlow takes the path of weights for a pattern.
PATTERN = re.compile(r"[\\*?\[\]]")
PROBABILITIES_LAYER = "probabilities"
PROBABILITY_ACTIVATIONS = {"softmax", "sigmoid"}


def write(model: keras.Model, class_names: Sequence[str], path: Path) -> None:
    """Exports a model as a SavedModel that needs nothing but TensorFlow.

    The signatures `serve` and `serving_default` take `image`. Of a module
    they answer with its `score`. Of a classifier they answer with
    `probabilities` (float32 `(batch, num_classes)`), `class_id` (int32) and
    `class_name` (string) of the most likely class, the first one of several,
    and with `logits` if those are what it answers with. Its signature
    `class_names` takes nothing and lists all classes.

    Weights share a few variables; to train them, take the Keras archive.

    Args:
        model: Classifier, or module of one score.
        class_names: Its classes, in the order of its outputs.
        path: Directory to write into.

    Raises:
        OSError: If the disk is full or does not let it be written.
    """
    import tensorflow as tf

    answer = answer_function(model)
    groups = _groups(model.weights)
    # What Keras exports holds each weight twice, and takes twice as long.
    served = tf.Module()
    served.weights = [_join(group) for group in groups]

    def serve(image):
        values = []
        for group, joined in zip(groups, served.weights):
            values += zip(group, _split(joined, group))
        with keras.StatelessScope(values):
            answers = answer(image)
        if "probabilities" not in answers:
            return answers
        best = tf.argmax(
            answers["probabilities"], axis=-1, output_type=tf.int32
        )
        names = tf.gather(tf.constant(class_names), best)
        return {**answers, "class_id": best, "class_name": names}

    def list_names():
        return {"class_names": tf.constant(class_names)}

    served.serve = tf.function(
        serve, input_signature=[image_spec(model)], autograph=False
    )
    served.class_names = tf.function(
        list_names, input_signature=[], autograph=False
    )
    signatures = {
        "serving_default": served.serve,
        "serve": served.serve,
        "class_names": served.class_names,
    }
    try:
        with quiet_tensorflow():
            tf.saved_model.save(served, str(path), signatures=signatures)
    except (
        tf.errors.OutOfRangeError,
        tf.errors.PermissionDeniedError,
        tf.errors.ResourceExhaustedError,
        tf.errors.UnknownError,
    ) as error:  # What TensorFlow makes of the system's errors.
        reason = error.message.rpartition("; ")[2].partition(" [Op:")[0]
        raise OSError(errno.EIO, reason, str(path)) from error


def _groups(weights):
    """Groups weights that go into one variable.

    TensorFlow takes long to write and to read a variable, however small.
    """
    groups = {}
    for weight in weights:
        key = weight.dtype, _size(weight) >= LARGE
        groups.setdefault(key, []).append(weight)
    return list(groups.values())


def _join(group):
    """Returns one variable of all weights of a group."""
    import tensorflow as tf

    rooms = [_room(weight) for weight in group]
    joined = np.zeros(sum(rooms), group[0].dtype)
    for weight, end in zip(group, np.cumsum(rooms)):
        start = end - _room(weight)
        values = keras.ops.convert_to_numpy(weight.value)
        joined[start : start + values.size] = values.ravel()
    return tf.Variable(joined)


def _split(joined, group):
    """Yields the value of each weight of a group, as a tensor."""
    import tensorflow as tf

    parts = tf.split(joined, [_room(weight) for weight in group])
    for weight, part in zip(group, parts):
        if _room(weight) > _size(weight):
            part = tf.slice(part, [0], [_size(weight)])
        is_vector = len(weight.shape) == 1
        yield part if is_vector else tf.reshape(part, weight.shape)


def _room(weight):
    """Returns how many numbers of a variable a weight takes.

    Large weights begin where TensorFlow can use them without a copy.
    """
    size = _size(weight)
    step = ALIGNMENT // np.dtype(weight.dtype).itemsize
    return size + -size % step if size >= LARGE else size


def _size(weight):
    return math.prod(weight.shape)


def load_saved_model(directory: str | Path) -> Any:
    """Loads a SavedModel with TensorFlow, after all in it was checked.

    Raises:
        ArtifactError: If it is no SavedModel, or holds an operation that no
            module and no composition needs.
    """
    check_saved_model(directory)
    import tensorflow as tf

    if not PATTERN.search(os.path.abspath(directory)):
        return tf.saved_model.load(str(directory))
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(directory, Path(folder, "saved_model"))
        return tf.saved_model.load(str(copy))


def predict(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of a written SavedModel, by name.

    Raises:
        ArtifactError: If it holds operations that must not run, or does not
            answer to such images.
    """
    exported = load_saved_model(path)
    try:
        with _unoptimized():
            answers = exported.serve(images)
        return {name: values.numpy() for name, values in answers.items()}
    except (AttributeError, TypeError, ValueError) as error:
        reason = reason_of(error).partition(". Received args: ")[0]
        raise ArtifactError(
            "A SavedModel answers by `serve` with arrays by name. Received: "
            f"'{path}', of which TensorFlow says: {reason}. Make it again."
        ) from error


@contextlib.contextmanager
def _unoptimized():
    """Runs graphs as they are: to optimize one takes longer than one run."""
    import tensorflow as tf

    key, options = "disable_meta_optimizer", tf.config.optimizer
    before = options.get_experimental_options().get(key, False)
    options.set_experimental_options({key: True})
    try:
        yield
    finally:
        options.set_experimental_options({key: before})


def predict_by_name(model: keras.Model, images: Any) -> dict[str, Any]:
    """Returns a model's answers, by the names that they have in every form."""
    return {
        name: keras.ops.convert_to_numpy(values)
        for name, values in answer_function(model)(images).items()
    }


def answer_function(
    model: keras.Model,
) -> Callable[[Any], Mapping[str, Any]]:
    """Returns the function that answers in every form of a model.

    Args:
        model: Classifier, or module of one score.

    Returns:
        Function from images to `{"score": ...}` for a module, and for a
        classifier to its `probabilities` and, if it answers with logits, to
        its `logits` too.
    """
    if model.output_shape[-1] == 1:
        return lambda image: {"score": model(image, training=False)}
    if _ends_in_probabilities(model):
        return lambda image: {"probabilities": model(image, training=False)}

    def answer(image):
        logits = model(image, training=False)
        probabilities = keras.ops.softmax(keras.ops.cast(logits, "float32"))
        return {"probabilities": probabilities, "logits": logits}

    return answer


def image_spec(model: keras.Model) -> Any:
    """Returns TensorFlow's description of a model's input, named `image`."""
    import tensorflow as tf

    (image,) = model.inputs
    return tf.TensorSpec(image.shape, image.dtype, INPUT_NAME)


def _ends_in_probabilities(model):
    layer = model.layers[-1]
    if isinstance(layer, keras.Model):
        return _ends_in_probabilities(layer)
    activation = getattr(layer, "activation", None)
    return (
        layer.name == PROBABILITIES_LAYER
        or isinstance(layer, keras.layers.Softmax)
        or getattr(activation, "__name__", "") in PROBABILITY_ACTIVATIONS
    )
