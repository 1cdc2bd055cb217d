"""Computes once per image what no mask changes, and keeps it."""

import keras
import numpy as np

from kmod.data.disk_arrays import has_room
from kmod.data.streaming import output_bytes
from kmod.data.streaming import predict

TEACHER = "teacher"
LIMIT = 3 * 2**30


def cache_stem(
    stem: keras.Model, images: np.ndarray, batch_size: int = 256
) -> dict[str, np.ndarray] | np.ndarray:
    """Runs a stem over all images, if there is room for what it makes.

    The model that the stem belongs to takes the result in place of the images,
    in `fit`, `evaluate` and `predict`, and answers the same. Training on it
    leaves the stem out of every step, which is most of the work if masks begin
    late.

    Args:
        stem: Model from images to a dict of tensors.
        images: Array `(num_images, ...)` as the source model takes them.
        batch_size: Integer, images to a step.

    Returns:
        Dict of arrays, `num_images` entries each, on disk if they are large;
        the images themselves if the arrays would take more than `LIMIT` bytes,
        or more than the disk has room for.
    """
    if not is_kept(stem, len(images)):
        return images
    return predict(stem, images, batch_size)


def is_kept(stem: keras.Model, num_images: int) -> bool:
    """Tells whether float32 arrays of all that a stem makes are kept."""
    num_bytes = output_bytes(stem, num_images)
    return num_bytes <= LIMIT and has_room(num_bytes)
