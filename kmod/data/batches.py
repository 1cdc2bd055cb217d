"""Reads labelled images from whatever a Keras user has, batch by batch."""

import math
import sys
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from kmod.data.image_data import LabelledImages
from kmod.errors import UsageError


def iter_batches(
    data: Any, batch_size: int = 256
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the images and labels of any data as NumPy batches.

    Args:
        data: `(images, labels)` arrays, `LabelledImages`, a batched
            `tf.data.Dataset` or a `keras.utils.PyDataset`. Labels are integer
            class indices of shape `(n,)` or `(n, 1)`. A third item, such as
            sample weights, is left out.
        batch_size: Integer, images to a batch of arrays. Data sets keep the
            batches they come in.

    Yields:
        Tuple `(images, labels)`, labels int64 of shape `(n,)`.

    Raises:
        TypeError: If `data` is of another type.
        ValueError: If it is empty, endless or unbatched, its labels are not
            class indices, or images and labels differ in number.
    """
    empty = True
    for batch in _raw_batches(data, batch_size):
        empty = False
        yield _images_and_labels(batch)
    if empty:
        raise ValueError(
            "`data` must hold at least one image. Received: no batch. A "
            "data set made from a generator can be read only once."
        )


def to_arrays(
    data: Any, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Collects any data into one array of images and one of labels.

    Args:
        data: What `iter_batches` accepts.
        limit: Integer, take this many images from the start. Defaults to all.

    Returns:
        Tuple `(images, labels)`, labels int64 of shape `(n,)`.

    Raises:
        TypeError, ValueError: As `iter_batches`.
    """
    batches, count = [], 0
    for batch in iter_batches(data):
        batches.append(batch)
        count += len(batch[1])
        if limit is not None and count >= limit:
            break
    images, labels = (np.concatenate(parts)[:limit] for parts in zip(*batches))
    return images, labels


def fit_arguments(data: Any, batch_size: int) -> dict[str, Any]:
    """Returns the arguments of Keras' `fit` that give it training data.

    Args:
        data: `(images, labels)`, or batched data that `fit` takes.
        batch_size: Integer, images to a step, for arrays.
    """
    if isinstance(data, tuple):
        images, labels = data
        return {"x": images, "y": labels, "batch_size": batch_size}
    return {"x": data}


def count_steps(arguments: Mapping[str, Any]) -> int:
    """Returns the number of training steps of one epoch.

    Args:
        arguments: Arguments of `keras.Model.fit`, defaults included.

    Raises:
        UsageError: If the data do not tell their length.
    """
    import keras

    if arguments["steps_per_epoch"]:
        return arguments["steps_per_epoch"]
    x = arguments["x"]
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    if isinstance(x, dict):
        x = next(iter(x.values()))
    if hasattr(x, "cardinality"):
        steps = int(x.cardinality())
    elif hasattr(x, "shape"):
        images = int(len(x) * (1 - (arguments["validation_split"] or 0)))
        steps = math.ceil(images / (arguments["batch_size"] or 32))
    else:
        steps = len(x) if hasattr(x, "__len__") else -1
    if steps < 1:
        raise UsageError(
            "`fit` must know how many steps an epoch has, to spread the "
            "removal of kernels over them. Received: data of unknown or "
            f"endless length, of type {type(x).__name__}. Give "
            "`steps_per_epoch`."
        )
    return steps


def _raw_batches(data, batch_size):
    if isinstance(data, LabelledImages):
        data = data.images, data.labels
    if isinstance(data, tuple):
        images, labels, *_ = data
        return (
            (
                images[start : start + batch_size],
                labels[start : start + batch_size],
            )
            for start in range(0, max(len(images), len(labels)), batch_size)
        )
    import keras

    if isinstance(data, keras.utils.PyDataset):
        _check_ends(data.num_batches is not None)
        return (data[index] for index in range(data.num_batches))
    tf = sys.modules.get("tensorflow")  # Who has such a data set has it.
    if tf is not None and isinstance(data, tf.data.Dataset):
        _check_ends(data.cardinality() != tf.data.INFINITE_CARDINALITY)
        return data.as_numpy_iterator()
    raise TypeError(
        "`data` must be a tuple (images, labels), LabelledImages, a batched "
        "tf.data.Dataset or a keras.utils.PyDataset. Received: an object of "
        f"type {type(data).__name__}."
    )


def _check_ends(ends):
    if not ends:
        raise ValueError(
            "`data` must come to an end. Received: an endless data set. Leave "
            "`repeat()` out, or cut it with `take(num_batches)`."
        )


def _images_and_labels(batch):
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            "Each batch must be a tuple (images, labels). Received: an object "
            f"of type {type(batch).__name__}. Bring it into that form, for "
            "example with `data.map(...)`."
        )
    images, labels = np.asarray(batch[0]), _class_indices(np.asarray(batch[1]))
    if len(images) != len(labels):
        raise ValueError(
            "`data` must have one label for each image. Received: "
            f"{len(images)} images and {len(labels)} labels in a batch."
        )
    return images, labels


def _class_indices(labels):
    if labels.ndim == 0:
        raise ValueError(
            "A tf.data.Dataset must come in batches. Received: single images. "
            "Use `data.batch(256)`."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "Labels must be integer class indices of shape (n,) or (n, 1). "
            f"Received: {labels.dtype} labels of shape {labels.shape}. Turn "
            "one-hot labels into indices with `labels.argmax(axis=-1)`, "
            'others with `labels.astype("int64")`.'
        )
    return labels.astype("int64")
