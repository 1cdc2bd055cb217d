"""Computes once per image what no mask changes, and keeps it."""

import math
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np

TEACHER = "teacher"
LIMIT = 3 * 2**30


class Front(keras.Model):
    """The part of a modular model in front of its masks.

    Args:
        modular: A `ModularModel`.
        **kwargs: Base model keyword arguments, such as `name`.

    Output shape:
        Dict of tensors `(batch, ...)`: those that the rest of the modular
        model reads, and as `teacher` the source model's logits.
    """

    def __init__(self, modular, **kwargs):
        super().__init__(**kwargs)
        self.flat_source = modular.flat_source
        self._network = modular.network

    def call(self, inputs):
        return {
            **self._network.front_values(inputs),
            TEACHER: self.flat_source(inputs, training=False),
        }


def cache_front(
    modular: keras.Model, images: np.ndarray, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """Computes what a modular model's masks do not change.

    The modular model takes the result in place of the images, in `fit`,
    `evaluate` and `predict`, and answers the same. Training on it leaves the
    front out of every step, which is most of the work if masks begin late.

    Args:
        modular: A `ModularModel`.
        images: Array `(num_images, ...)` as the source model takes them.
        batch_size: Integer, images to a step.

    Returns:
        Dict of arrays, `num_images` entries each.
    """
    return Front(modular).predict(images, batch_size=batch_size, verbose=0)


def fits_memory(shapes: Iterable[Sequence[int]], num_images: int) -> bool:
    """Tells whether one float32 tensor of each shape for every image may stay.

    Args:
        shapes: Shapes of one image's tensors, without the batch axis.
        num_images: Integer, number of images.

    Returns:
        Whether all of them take at most `LIMIT` bytes.
    """
    numbers = num_images * sum(math.prod(shape) for shape in shapes)
    return 4 * numbers <= LIMIT
