"""What an exported model answers with, by name."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras

PROBABILITIES_LAYER = "probabilities"
PROBABILITY_ACTIVATIONS = {"softmax", "sigmoid"}


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


def ask(model: keras.Model, images: Any) -> dict[str, Any]:
    """Returns a model's answers for images, by name, as NumPy arrays."""
    return {
        name: keras.ops.convert_to_numpy(values)
        for name, values in answer_function(model)(images).items()
    }


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
