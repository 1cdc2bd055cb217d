"""Computes once per image what no mask changes, and keeps it."""

import math

import keras
import numpy as np

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
        Dict of arrays, `num_images` entries each; the images themselves if
        the arrays would take more than `LIMIT` bytes.
    """
    if not fits_memory(stem, len(images)):
        return images
    return stem.predict(images, batch_size=batch_size, verbose=0)


def fits_memory(stem: keras.Model, num_images: int) -> bool:
    """Tells whether float32 arrays of all that a stem makes may be kept."""
    numbers = sum(math.prod(tensor.shape[1:]) for tensor in stem.outputs)
    return 4 * numbers * num_images <= LIMIT
