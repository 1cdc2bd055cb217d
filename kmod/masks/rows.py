"""Which modules see which images of a training step."""

import keras
from keras import ops

from kmod.masks.losses import UNSEEN


def sample_rows(labels, num_classes: int, num_rows: int, seed):
    """Draws the modules that see each image.

    Args:
        labels: Integer tensor `(batch,)`, the images' classes.
        num_classes: Integer, number of modules.
        num_rows: Integer, modules per image.
        seed: Integer or `keras.random.SeedGenerator`.

    Returns:
        int32 tensor `(batch, num_rows)`: the image's own class, then others
        without repetition.
    """
    own = ops.one_hot(labels, num_classes)
    luck = keras.random.uniform((ops.shape(labels)[0], num_classes), seed=seed)
    _, others = ops.top_k(luck - 2.0 * ops.cast(own, luck.dtype), num_rows - 1)
    return ops.concatenate(
        [ops.cast(labels[:, None], "int32"), ops.cast(others, "int32")], axis=1
    )


def by_class(scores, classes, num_classes: int):
    """Writes the scores of sampled rows into one column for each class.

    Args:
        scores: Float tensor `(batch, rows)`.
        classes: Integer tensor `(batch, rows)`.
        num_classes: Integer, number of columns.

    Returns:
        Tensor `(batch, num_classes)` that holds `UNSEEN` where no row is.
    """
    places = ops.one_hot(classes, num_classes, dtype=scores.dtype)
    seen = ops.sum(places, axis=1)
    values = ops.sum(places * scores[..., None], axis=1)
    return values + (1 - seen) * UNSEEN
