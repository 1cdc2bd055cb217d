"""What every composed model ends with."""

import keras

LOG_ODDS_LAYER = "log_odds"
PROBABILITIES_LAYER = "probabilities"


def build_classifier(
    image: keras.KerasTensor, log_odds: keras.KerasTensor, name: str
) -> keras.Model:
    """Builds the model from its input and the scores of its classes.

    Args:
        image: The input.
        log_odds: Output of the layer `log_odds`, `(batch, num_classes)`.
        name: Name of the model.

    Returns:
        Functional model, images to float32 probabilities.
    """
    softmax = keras.layers.Softmax(name=PROBABILITIES_LAYER, dtype="float32")
    return keras.Model(image, softmax(log_odds), name=name)
