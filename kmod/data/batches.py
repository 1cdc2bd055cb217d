"""Reads labelled images from whatever a Keras user has, batch by batch."""

import math
import sys
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from kmod.data.disk_arrays import collect
from kmod.data.disk_arrays import parts
from kmod.data.disk_arrays import rows
from kmod.data.image_data import LabelledImages
from kmod.data.value_range import check_values
from kmod.errors import UsageError

ENDLESS = -1  # What TensorFlow calls the length of such a data set.
NO_IMAGE = (
    "`data` must hold at least one image. Received: no batch. Look at what it "
    "was made from; a data set made from a generator can be read only once."
)


def iter_batches(
    data: Any, batch_size: int = 256, num_classes: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the images and labels of any data as NumPy batches.

    Args:
        data: `(images, labels)` arrays, `LabelledImages`, a batched
            `tf.data.Dataset` or a `keras.utils.PyDataset`. Labels are class
            indices of shape `(n,)` or `(n, 1)`, or one-hot. A third item, such
            as sample weights, is left out.
        batch_size: Integer, images to a batch of arrays. Data sets keep the
            batches they come in.
        num_classes: Integer, number of classes that labels may be of.
            Defaults to any.

    Yields:
        Tuple `(images, labels)`, labels int64 of shape `(n,)`. Grey images
        `(n, height, width)` get an axis of one channel.

    Raises:
        TypeError: If `data` is of another type.
        ValueError: If it is empty, endless or unbatched, its labels are not
            of these classes, or images and labels differ in number.
    """
    empty = True
    for batch in _raw_batches(data, batch_size):
        empty = False
        yield _images_and_labels(batch, num_classes)
    if empty:
        raise ValueError(NO_IMAGE)


def to_arrays(
    data: Any, limit: int | None = None, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns any data as one array of images and one of labels.

    Arrays are not copied, nor are those of `LabelledImages`. Data sets are
    collected, on disk if they are large.

    Args:
        data: What `iter_batches` accepts.
        limit: Integer, take this many images from the start. Defaults to all.
        num_classes: Integer, number of classes that labels may be of.
            Defaults to any.

    Returns:
        Tuple `(images, labels)`, as `iter_batches` yields them.

    Raises:
        TypeError, ValueError: As `iter_batches`.
    """
    if isinstance(data, LabelledImages):
        data = data.images, data.labels
    if isinstance(data, tuple) and len(data[0]):
        some = [part[:limit] for part in data[:2]]
        return _images_and_labels(some, num_classes)
    labels = []

    def batches():
        count = 0
        for images, own in iter_batches(data, num_classes=num_classes):
            labels.append(own)
            yield (images,)
            count += len(own)
            if limit is not None and count >= limit:
                return

    (images,) = collect(batches())
    return images[:limit], np.concatenate(labels)[:limit]


def class_names_of(data: Any) -> tuple[str, ...] | None:
    """Returns the class names that data have as an attribute.

    Those of `keras.utils.image_dataset_from_directory` have, in the order of
    their labels, as long as they are not mapped or batched anew.
    """
    names = getattr(data, "class_names", None)
    return names and tuple(names)


def common_class_names(
    given: Sequence[str] | None, *data: Any
) -> tuple[str, ...] | None:
    """Returns the class names that hold for data.

    Args:
        given: Names that the user gave, which come first.
        *data: Data that may have names as an attribute.

    Returns:
        The names, `None` if there are none.

    Raises:
        UsageError: If names stand in another order than those of the data, so
            that labels would be taken for those of other classes.
    """
    found = [names for each in data if (names := class_names_of(each))]
    first = tuple(given) if given is not None else next(iter(found), None)
    for names in found:
        is_reordered = names != first and sorted(names) == sorted(first)
        if is_reordered or (given is None and names != first):
            raise UsageError(
                "Data must have the same class names in the same order, which "
                f"is that of their labels. Received: {list(names)} and "
                f"{list(first)}. Read all data with "
                f"`class_names={list(first)}`."
            )
    return first


def fit_arguments(
    data: Any, batch_size: int, steps_per_epoch: int | None = None
) -> dict[str, Any]:
    """Returns the arguments of Keras' `fit` that give it training data.

    Args:
        data: `(images, labels)` or `(images, labels, sample_weight)` arrays,
            `LabelledImages`, or batched data that `fit` takes.
        batch_size: Integer, images to a step, for arrays.
        steps_per_epoch: Integer, batches to an epoch. Defaults to all there
            are.
    """
    arguments = {"x": data, "steps_per_epoch": steps_per_epoch}
    if isinstance(data, LabelledImages):
        data = data.images, data.labels
    if isinstance(data, tuple):
        names = "x", "y", "sample_weight"
        arguments.update(zip(names, data), batch_size=batch_size)
    return arguments


def check_training(
    arguments: Mapping[str, Any],
    num_classes: int,
    shape: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
) -> None:
    """Reads all training data once, before a step is made.

    A generator can not be read twice, so it is not read here.

    Args:
        arguments: Arguments of `keras.Model.fit`, at least `x`.
        num_classes: Integer, number of classes that labels may be of.
        shape: Shape of the images that the model takes. Defaults to any.
        value_range: Smallest and largest pixel value that it takes. Defaults
            to any.

    Raises:
        ArtifactError: If values are not finite.
        TypeError: If the data are of another type than `fit` takes.
        UsageError: If images are of another shape or far from the range.
        ValueError: If labels are not of these classes, data come as single
            images, or images and labels differ in number.
    """
    low, high = [], []
    for size, least, most, labels in _summaries(arguments):
        class_indices(np.asarray(labels), num_classes)
        if size is not None:
            _check_shape(tuple(map(int, size)), shape)
            low.append(least)
            high.append(most)
    if low:
        check_values(float(np.min(low)), float(np.max(high)), value_range)


def _check_shape(found, shape):
    if shape is None:
        return
    shape = tuple(shape)
    if found != shape and not (shape[-1] == 1 and found == shape[:-1]):
        raise UsageError(
            "Images to train on must be of the shape that the model takes, "
            f"{shape}. Received: images of shape {found}. Bring them to it, "
            "as those to validate on."
        )


def count_steps(arguments: Mapping[str, Any]) -> int:
    """Returns the number of training steps of one epoch.

    Args:
        arguments: Arguments of `keras.Model.fit`, defaults included.

    Raises:
        UsageError: If the data do not tell their length.
        ValueError: If they are empty, or come as single images.
    """
    import keras

    if arguments["steps_per_epoch"]:
        return arguments["steps_per_epoch"]
    x = arguments["x"]
    if _is_tf_data(x) and isinstance(x.element_spec, tuple):
        _check_batched(x)
    if isinstance(x, dict):
        x = next(iter(x.values()))
    if isinstance(x, keras.utils.PyDataset):
        steps = x.num_batches or -1
    elif hasattr(x, "cardinality"):
        steps = int(x.cardinality())
    elif hasattr(x, "shape"):
        images = int(len(x) * (1 - (arguments["validation_split"] or 0)))
        steps = math.ceil(images / (arguments["batch_size"] or 32))
    else:
        steps = len(x) if hasattr(x, "__len__") else -1
    if steps == 0:
        raise ValueError(NO_IMAGE)
    if steps < 0:
        raise UsageError(
            "`fit` must know how many steps an epoch has, to spread the "
            "removal of kernels over them. Received: data of unknown or "
            f"endless length, of type {type(x).__name__}. Give "
            "`steps_per_epoch`, or cut a data set with `take(num_batches)`."
        )
    return steps


def _summaries(arguments):
    """Yields shape, least and largest value and labels of each batch.

    Of a generator, which can be read only once, it yields nothing; of
    anything but images, such as what a stem made of them, the labels only.
    """
    import keras

    data, labels = arguments["x"], arguments.get("y")
    num_batches = arguments.get("steps_per_epoch")
    if labels is not None:
        yield _summary(data, labels)
    elif isinstance(data, keras.utils.PyDataset):
        if num_batches is None:
            num_batches = data.num_batches
            _check_ends(num_batches is not None)
        for index in range(num_batches):
            yield _summary(*_parts(data[index])[:2])
    elif _is_tf_data(data):
        _check_batched(data)
        if num_batches is None:
            _check_ends(data.cardinality() != ENDLESS)
        else:
            data = data.take(num_batches)
        images = data.element_spec[0]
        if isinstance(images, dict):
            labels = data.map(lambda _, labels, *others: labels)
            for each in labels.as_numpy_iterator():
                yield None, 0, 0, each
        else:
            _check_kind(images.dtype.as_numpy_dtype, images.shape)
            yield from data.map(_tensor_summary).as_numpy_iterator()
    elif isinstance(data, (list, tuple, dict, str)) or not (
        hasattr(data, "__iter__") and not hasattr(data, "dtype")
    ):
        raise _wrong_type(data)


def _summary(images, labels):
    if isinstance(images, dict):
        return None, 0, 0, labels
    if not hasattr(images, "dtype"):
        raise _wrong_type(images)
    images = _numbers(images)
    if len(images) != len(labels):
        raise _uneven(images, labels)
    extremes = [(np.min(part), np.max(part)) for part in parts(images)]
    return images.shape[1:], np.min(extremes), np.max(extremes), labels


def _tensor_summary(images, labels, *others):
    import tensorflow as tf

    images = tf.cast(images, "float32")
    is_finite = tf.reduce_all(tf.math.is_finite(images))
    low, high = tf.reduce_min(images), tf.reduce_max(images)
    low = tf.where(is_finite, low, np.nan)
    return tf.shape(images)[1:], low, high, labels


def _numbers(images):
    """Returns images as an array of numbers."""
    images = np.asanyarray(images)
    _check_kind(images.dtype, images.shape)
    return images


def _check_kind(dtype, shape):
    if np.dtype(dtype).kind in "OSU":
        raise TypeError(
            "Images must be one array of numbers. Received: an array of "
            f"{np.dtype(dtype)} of shape {shape}. Images of one size are "
            "joined by `numpy.stack(images)`; paths are read by "
            "`kmod.load_data`."
        )


def _check_batched(data):
    labels = _parts(data.element_spec)[1]
    if labels.shape.rank == 0:
        class_indices(np.zeros(()))


def _is_tf_data(data):
    tf = sys.modules.get("tensorflow")  # Who has such a data set has it.
    return tf is not None and isinstance(data, tf.data.Dataset)


def _raw_batches(data, batch_size):
    if isinstance(data, LabelledImages):
        data = data.images, data.labels
    if isinstance(data, tuple):
        images, labels, *_ = data
        return (
            tuple(
                rows(part, slice(start, start + batch_size))
                for part in (images, labels)
            )
            for start in range(0, max(len(images), len(labels)), batch_size)
        )
    import keras

    if isinstance(data, keras.utils.PyDataset):
        _check_ends(data.num_batches is not None)
        return (data[index] for index in range(data.num_batches))
    if _is_tf_data(data):
        _check_ends(data.cardinality() != ENDLESS)
        return data.as_numpy_iterator()
    raise _wrong_type(data)


def _wrong_type(data):
    return TypeError(
        "`data` must be a tuple (images, labels) of arrays, LabelledImages, a "
        "batched tf.data.Dataset or a keras.utils.PyDataset. Received: an "
        f"object of type {type(data).__name__}. `kmod.load_data` reads "
        "folders and files; `numpy.array` makes an array of a list."
    )


def _check_ends(ends):
    if not ends:
        raise ValueError(
            "`data` must come to an end. Received: an endless data set. Leave "
            "`repeat()` out, or cut it with `take(num_batches)`."
        )


def _parts(batch):
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            "Each batch must be a tuple (images, labels). Received: an object "
            f"of type {type(batch).__name__}. Bring it into that form, for "
            "example with `data.map(...)`."
        )
    return batch


def _images_and_labels(batch, num_classes):
    images, labels, *_ = _parts(batch)
    images, labels = _numbers(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]  # Grey images, as Keras takes them.
    labels = class_indices(labels, num_classes)
    if len(images) != len(labels):
        raise _uneven(images, labels)
    return images, labels


def _uneven(images, labels):
    return ValueError(
        "`data` must have one label for each image. Received: "
        f"{len(images)} images and {len(labels)} labels in a batch. Give "
        "those that belong together, in the same order."
    )


def class_indices(
    labels: np.ndarray, num_classes: int | None = None
) -> np.ndarray:
    """Returns labels of any form that Keras takes as class indices.

    Args:
        labels: Whole numbers of shape `(n,)` or `(n, 1)`, or one-hot rows
            `(n, num_classes)`.
        num_classes: Integer, number of classes that labels may be of.
            Defaults to any.

    Returns:
        int64 array `(n,)`.

    Raises:
        ValueError: If they are of another form or of other classes.
    """
    if labels.ndim == 0:
        raise ValueError(
            "A tf.data.Dataset must come in batches. Received: single images. "
            "Use `data.batch(256)`."
        )
    given, count = labels.shape, num_classes
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and _is_one_hot(labels):
        if num_classes is None:
            count = labels.shape[1]
        elif labels.shape[1] != num_classes:
            raise ValueError(
                f"One-hot labels must have a column for each of the model's "
                f"{num_classes} classes. Received: labels of shape {given}. "
                "Label images in the classes of the model."
            )
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or not _is_whole(labels):
        raise ValueError(
            "Labels must be class indices of shape (n,) or (n, 1), or one-hot "
            "rows of a single 1. Received: "
            f"{labels.dtype} labels of shape {given}{_example(labels)}. "
            f"{_way_out(labels)}"
        )
    least, most = (labels.min(), labels.max()) if len(labels) else (0, 0)
    if least < 0 or (count is not None and most >= count):
        classes = "from 0" if count is None else f"from 0 to {count - 1}"
        wrong = most if least >= 0 else least
        raise ValueError(
            f"Labels must be class indices {classes}"
            + ("" if count is None else f", for a model of {count} classes")
            + f". Received: a label {wrong:g}. Count classes from 0, in the "
            "order of the model's outputs, and leave images of other classes "
            "out."
        )
    return labels.astype("int64")


def _way_out(labels):
    if labels.dtype.kind in "OSU":
        return (
            "Number the classes, `names, labels = numpy.unique(labels, "
            "return_inverse=True)`, and give the names as `class_names`."
        )
    if labels.ndim == 2 and np.isin(labels, (0, 1)).all():
        return (
            "Images of several labels at once have no one class to choose: "
            "make each output of their model a module of its own with "
            "`kmod.module_from_model`."
        )
    return (
        "Give each image one class; turn probabilities into classes with "
        "`labels.argmax(axis=-1)`."
    )


def _is_one_hot(labels):
    return _is_whole(labels) and bool(
        np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(1) == 1)
    )


def _is_whole(labels):
    kind = labels.dtype.kind
    return kind in "iub" or (kind == "f" and bool(np.all(labels % 1 == 0)))


def _example(labels):
    if labels.ndim == 1 and labels.dtype.kind == "f":
        labels = labels[labels % 1 != 0]  # Others are no example.
    return f", such as {np.asarray(labels[0]).tolist()}" if len(labels) else ""
