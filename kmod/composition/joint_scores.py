"""Weighs the scores of all classes together, by one linear layer."""

from collections.abc import Sequence

import keras
import numpy as np

from kmod.composition.classifier import LOG_ODDS_LAYER
from kmod.composition.scoring import check_every_class
from kmod.data.image_data import LabelledImages
from kmod.metrics.calibration import Layer
from kmod.metrics.calibration import fit_scores


def apply_layer(scores: keras.KerasTensor, layer: Layer) -> keras.KerasTensor:
    """Puts the layer behind the scores, as the composed model's log-odds.

    Args:
        scores: Tensor `(batch, num_scores)`.
        layer: Weights and biases, see `fit_scores`.
    """
    weights, bias = layer
    dense = keras.layers.Dense(
        len(bias), name=LOG_ODDS_LAYER, trainable=False, dtype="float32"
    )
    log_odds = dense(scores)
    dense.set_weights([weights, bias])
    return log_odds


def fit_joint(
    model: keras.Model, data: LabelledImages, class_names: Sequence[str]
) -> Layer:
    """Fits the layer on a few labelled images.

    Args:
        model: Images to `(batch, num_scores)` scores, of all classes and of
            what supports them.
        data: Images, labelled in the classes of the model; those with a label
            above them are left out.
        class_names: Names of the classes.

    Returns:
        See `fit_scores`.

    Raises:
        ArtifactError: If there are no images of a class, or only of one.
    """
    images = data.take(np.flatnonzero(data.labels < len(class_names)))
    check_every_class(images.labels, class_names)
    scores = model.predict(images.images, batch_size=256, verbose=0)
    return fit_scores(scores, images.labels)
