"""What every composed model ends with."""

import numbers
from collections.abc import Sequence
from typing import Literal

import keras

from kmod.export.answers import PROBABILITIES_LAYER

LOG_ODDS_LAYER = "log_odds"


def build_classifier(
    image: keras.KerasTensor,
    log_odds: keras.KerasTensor,
    name: str,
    output: Literal["probabilities", "logits"] = "probabilities",
) -> keras.Model:
    """Builds the model from its input and the scores of its classes.

    Args:
        image: The input.
        log_odds: Output of the layer `log_odds`, `(batch, num_classes)`.
        name: Name of the model.
        output: Whether the model answers with probabilities, or with
            `log_odds` as it is.

    Returns:
        Functional model, images to float32 probabilities or logits.
    """
    if output == "logits":
        return keras.Model(image, log_odds, name=name)
    return keras.Model(image, softmax(log_odds, PROBABILITIES_LAYER), name=name)


def join(columns: list[keras.KerasTensor], name: str) -> keras.KerasTensor:
    """Joins columns of scores to one float32 tensor `(batch, num_classes)`."""
    return keras.layers.Concatenate(name=name, dtype="float32")(columns)


def softmax(log_odds: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Turns log-odds into float32 probabilities."""
    return keras.layers.Softmax(name=name, dtype="float32")(log_odds)


def line(
    x: keras.KerasTensor,
    scale: float | Sequence[float],
    offset: float | Sequence[float],
    name: str,
) -> keras.KerasTensor:
    """Returns `scale * x + offset`, without any weight to train.

    Args:
        x: Tensor `(batch, columns)`.
        scale: A number, or one for each column.
        offset: A number, or one for each column.
        name: Name of the layer.
    """
    scale, offset = (
        values if isinstance(values, numbers.Real) else list(values)
        for values in (scale, offset)
    )
    layer = keras.layers.Rescaling(scale, offset, name=name, dtype="float32")
    return layer(x)
