"""Gives Keras arrays batch by batch, and lets it begin at once.

Keras itself copies arrays that lie on disk into memory before it makes a first
step. With TensorFlow it lets a thread tune how batches are read, which takes
about as long to stop as it has run, up to a minute: every epoch would end late.
A first step that builds what it needs is traced twice.
"""

import contextlib
import logging
import math
import random
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.data import disk_arrays
from kmod.data.disk_arrays import collect
from kmod.data.disk_arrays import rows
from kmod.data.replicas import num_shards
from kmod.data.replicas import predict_batch
from kmod.data.replicas import scope_of

USUAL_BATCH_SIZE = 32  # Of Keras, where none is given.
FEW_BATCHES = 4  # To trace a graph takes longer.
SHOWN = 2  # Batches that tell which sizes are the same in all.
# Arguments of `fit` that Keras has rules of its own for, if it gets arrays.
KEPT_BY_KERAS = (
    "validation_split",
    "steps_per_epoch",
    "validation_steps",
    "class_weight",
)


class DiskBatches(keras.utils.PyDataset):
    """Batches of arrays, read when they are needed.

    Args:
        arrays: Tuple of what a step takes: `(x, y)`, or `(x, y, weights)`. `x`
            is an array or a dict of arrays.
        batch_size: Integer, rows to a batch; the last may be smaller.
        shuffle: Whether every epoch has an order of its own. It is drawn from
            NumPy's own generator, as Keras draws that of arrays, so
            `keras.utils.set_random_seed` decides.
        num_batches: Integer, batches to an epoch. Defaults to all.
        **kwargs: Arguments of `keras.utils.PyDataset`, such as `workers`.
    """

    def __init__(
        self, arrays, batch_size, shuffle=False, num_batches=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.arrays = arrays
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._count = len(tree.flatten(arrays)[0])
        self._num_batches = num_batches or -(-self._count // batch_size)
        self._order = None

    @property
    def num_batches(self):
        return self._num_batches

    def __getitem__(self, index):
        start = index * self.batch_size
        part = slice(start, start + self.batch_size)
        if self._order is not None:
            part = self._order[part]
        return tree.map_structure(lambda array: rows(array, part), self.arrays)

    def on_epoch_begin(self):
        if self.shuffle:
            self._order = np.random.permutation(self._count)


def streamed(
    arguments: Mapping[str, Any], indexed: bool = False
) -> dict[str, Any]:
    """Returns arguments of `keras.Model.fit` that copy no array on disk.

    With TensorFlow, arrays in memory and a `PyDataset` become batches that
    nothing tunes. Other data sets stay as they are.

    Args:
        arguments: Arguments by name.
        indexed: Whether batches to train on are to be had by their number:
            arrays in memory become `DiskBatches`, too, and a `PyDataset`
            stays.
    """
    arguments = dict(arguments)
    batch_size = arguments.get("batch_size") or USUAL_BATCH_SIZE
    is_given_whole = indexed and arguments.get("y") is not None
    if is_given_whole or _is_on_disk(arguments["x"]):
        _stream_training(arguments, batch_size)
    validation = arguments.get("validation_data")
    if isinstance(validation, tuple) and _is_on_disk(validation[0]):
        size = arguments.get("validation_batch_size") or batch_size
        arguments["validation_data"] = DiskBatches(_given(validation), size)
    if not _is_on_tensorflow() or any(map(arguments.get, KEPT_BY_KERAS)):
        return arguments
    return _untuned(arguments, batch_size, indexed)


def build_ahead(
    model: keras.Model, labels: Any = None, num_scores: int | None = None
) -> None:
    """Builds optimiser and metrics before the first training step.

    TensorFlow traces a step that builds them a second time.

    Args:
        model: Compiled model whose weights exist.
        labels: Array of labels, class indices `(n,)` or one-hot `(n,
            num_scores)`. Defaults to none, as of batched data: metrics that
            were compiled by their names, such as `"accuracy"`, then wait for
            the first step. Others need no building.
        num_scores: Integer, length of an image's output; with `labels`.
    """
    with scope_of(model):
        model.optimizer.build(model.trainable_variables)
        if labels is not None:
            labels = ops.convert_to_tensor(labels[:1])
            scores = np.zeros((1, num_scores), "float32")
            model.compute_metrics(None, labels, scores)
            model.reset_metrics()


def _stream_training(arguments, batch_size):
    names = "x", "y", "sample_weight"
    arrays = _given(arguments.get(name) for name in names)
    share = arguments.get("validation_split")
    if share and arguments.get("validation_data") is None:
        count = math.floor(len(tree.flatten(arrays)[0]) * (1 - share))
        arguments["validation_data"] = tree.map_structure(
            lambda array: array[count:], arrays
        )
        arrays = tree.map_structure(lambda array: array[:count], arrays)
    shuffle = arguments.get("shuffle", True) is True
    batches = DiskBatches(arrays, batch_size, shuffle)
    steps = arguments.get("steps_per_epoch")
    if shuffle and steps and steps <= batches.num_batches:
        # Else Keras goes on where the last epoch stopped, and a training that
        # was cut short could not.
        batches = DiskBatches(arrays, batch_size, shuffle, steps)
        arguments["steps_per_epoch"] = None
    arguments.update(dict.fromkeys(names), x=batches, shuffle=False)
    arguments["validation_split"] = 0.0


def _untuned(arguments, batch_size, indexed):
    """Takes arrays in memory and a `PyDataset` as batches nothing tunes."""
    names = "x", "y", "sample_weight"
    train = _given(arguments.get(name) for name in names)
    if arguments.get("y") is not None and _are_in_memory(train):
        shuffle = arguments.get("shuffle", True)
        batches = untuned_batches(train, batch_size, shuffle)
        arguments.update(dict.fromkeys(names), x=batches, shuffle=False)
    elif not indexed:
        read = _read_untuned(arguments["x"], arguments.get("shuffle", True))
        if read is not arguments["x"]:
            arguments.update(x=read, shuffle=False)
    validation = arguments.get("validation_data")
    if isinstance(validation, tuple) and _are_in_memory(_given(validation)):
        size = arguments.get("validation_batch_size") or batch_size
        validation = untuned_batches(_given(validation), size)
    if validation is not None:
        arguments["validation_data"] = _read_untuned(validation)
    return arguments


def _read_untuned(data, shuffle=False):
    """Returns a `PyDataset` as a `tf.data.Dataset`, other data as they are.

    One of several workers is left to Keras, which then tunes nothing.
    """
    is_indexed = isinstance(data, keras.utils.PyDataset)
    if not is_indexed or data.workers > 1 or data.use_multiprocessing:
        return data
    shown = [
        _as_tuple(data[index]) for index in range(data.num_batches or 0)[:SHOWN]
    ]
    if not shown or not all(map(_has_rows, tree.flatten(shown))):
        return data
    import tensorflow as tf

    def batches():
        data.on_epoch_begin()
        order = list(range(data.num_batches))
        if shuffle:
            random.shuffle(order)  # As Keras does.
        for index in order:
            yield _as_tuple(data[index])
        data.on_epoch_end()

    signature = tree.map_structure(_spec_of, *shown)
    return _without_tuning(
        tf.data.Dataset.from_generator(batches, output_signature=signature),
        data.num_batches,
    )


def _as_tuple(batch):
    return tuple(batch) if isinstance(batch, (list, tuple)) else (batch,)


def _has_rows(values):
    return hasattr(values, "__array__") and np.ndim(values) > 0


def _spec_of(*arrays):
    """Returns TensorFlow's description of what all of some batches are."""
    import tensorflow as tf

    arrays = [np.asarray(each) for each in arrays]
    sizes = zip(*(each.shape[1:] for each in arrays))
    shape = [own[0] if len(set(own)) == 1 else None for own in sizes]
    return tf.TensorSpec((None, *shape), _type_of(arrays[0]))


def untuned_batches(arrays: tuple, batch_size: int, shuffle: bool = False):
    """Returns a `tf.data.Dataset` of arrays that TensorFlow does not tune.

    Args:
        arrays, batch_size, shuffle: As in `DiskBatches`; the order is that of
            `DiskBatches`, too.
    """
    import tensorflow as tf

    count = len(tree.flatten(arrays)[0])
    with tf.device("CPU:0"):  # Of a GPU, memory is for the model.
        tensors = tree.map_structure(
            lambda each: tf.convert_to_tensor(each, _type_of(each)), arrays
        )

    def order(_):
        rows = tf.range(count, dtype=tf.int64)
        if shuffle:
            rows = tf.numpy_function(np.random.permutation, [rows], tf.int64)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(rows, count))

    def batch(rows):
        return tree.map_structure(lambda each: tf.gather(each, rows), tensors)

    batches = tf.data.Dataset.range(1).flat_map(order).batch(batch_size)
    return _without_tuning(batches.map(batch), -(-count // batch_size))


def _without_tuning(batches, num_batches):
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return (
        batches.prefetch(1)
        .apply(tf.data.experimental.assert_cardinality(num_batches))
        .with_options(options)
    )


def _type_of(array):
    """Returns the type that Keras gives an array in `fit`."""
    is_float = np.issubdtype(array.dtype, np.floating)
    return keras.config.floatx() if is_float else array.dtype


def _is_on_tensorflow():
    return keras.backend.backend() == "tensorflow"


def _are_in_memory(arrays):
    return all(
        isinstance(each, np.ndarray) and not isinstance(each, np.memmap)
        for each in tree.flatten(arrays)
    )


def _given(arrays):
    return tuple(
        each if isinstance(each, dict) else np.asanyarray(each)
        for each in arrays
        if each is not None
    )


def _is_on_disk(arrays):
    return any(isinstance(each, np.memmap) for each in tree.flatten(arrays))


def predict(model: keras.Model, images: Any, batch_size: int = 256) -> Any:
    """Runs a model over images, as `keras.Model.predict` does.

    Images on disk are read batch by batch. What the model makes is kept on
    disk if it is too large for memory.

    Args:
        model: Keras model.
        images: Array `(n, ...)` or dict of arrays.
        batch_size: Integer, images to a step.

    Returns:
        What the model makes of all images: an array, or a structure of them.
    """
    is_whole = not (_is_on_disk(images) or _makes_much(model, images))
    if is_whole and num_shards() == 1:
        if _are_few(model, images, batch_size):
            return _answers(model, images, batch_size)
        if _is_on_tensorflow() and _are_in_memory((images,)):
            images = untuned_batches((images,), batch_size)
        with quiet_tensorflow():
            return model.predict(images, batch_size=batch_size, verbose=0)
    batches, made = DiskBatches((images,), batch_size), None

    def results():
        nonlocal made
        for index in range(batches.num_batches):
            made = predict_batch(model, *batches[index])
            yield tree.flatten(made)

    found = collect(results())
    return tree.pack_sequence_as(made, list(found))


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Leaves out what TensorFlow notes of many small models and their files.

    It takes several models for one that is traced again and again.
    """
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _are_few(model, images, batch_size):
    if keras.backend.backend() != "tensorflow" or model.predict_function:
        return False
    count = len(tree.flatten(images)[0])
    return 0 < count <= FEW_BATCHES * batch_size


def _answers(model, images, batch_size):
    batches = DiskBatches((images,), batch_size)
    parts = [
        tree.map_structure(
            keras.ops.convert_to_numpy, model(*batches[index], training=False)
        )
        for index in range(batches.num_batches)
    ]
    return tree.map_structure(lambda *part: np.concatenate(part), *parts)


def _makes_much(model, images):
    if not isinstance(images, (np.ndarray, dict)):
        return False  # Another kind of data that Keras takes.
    size = output_bytes(model, len(tree.flatten(images)[0]))
    return size > disk_arrays.LIMIT


def output_bytes(model: keras.Model, num_images: int) -> int:
    """Returns how much memory a model's float32 results take.

    Args:
        model: Functional model; of others it is not known, which counts as 0.
        num_images: Integer, number of images.
    """
    shapes = [each.shape[1:] for each in getattr(model, "outputs", None) or ()]
    if any(None in shape for shape in shapes):
        return 0
    return 4 * num_images * sum(map(math.prod, shapes))
