"""Brings scores of masked modules back to where the source model's are."""

import numpy as np
from keras import ops

from kmod.modular.modular_model import ModularModel


def align(
    scores: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits lines from scores to expected ones, by least squares.

    Args:
        scores: Array `(num_modules, num_images)`.
        expected: Array of that shape.

    Returns:
        Tuple `(scale, shift)` of float32 arrays `(num_modules,)`, no scale
        below 0.
    """
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = np.square(centred).sum(axis=1)
    scale = (centred * expected).sum(axis=1) / np.maximum(spread, 1e-12)
    scale = np.maximum(scale, 0)
    shift = expected.mean(axis=1) - scale * scores.mean(axis=1)
    return scale.astype("float32"), shift.astype("float32")


def align_heads(modular: ModularModel, images: np.ndarray) -> None:
    """Lets linear heads answer as near to the source model as a line can.

    Args:
        modular: Modular model with its masks set and untrained heads.
        images: Validation images `(n, ...)`.
    """
    logits = modular.flat_source.predict(images, batch_size=256, verbose=0)
    expected = (logits - logits.mean(axis=1, keepdims=True)).T
    scores = modular.predict(images, batch_size=64, verbose=0).T
    scale, shift = align(scores, expected)
    heads = modular.heads
    kernel = ops.convert_to_numpy(heads.kernel)
    heads.kernel.assign(kernel * scale[:, None])
    heads.bias.assign(shift)
