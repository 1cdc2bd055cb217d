"""Weighs the scores of all classes together, by one linear layer."""

from collections.abc import Sequence

import keras
import numpy as np

from kmod.composition.classifier import LOG_ODDS_LAYER
from kmod.composition.coefficients import MODULE_REGULARIZATION
from kmod.composition.coefficients import folds
from kmod.composition.scoring import check_every_class
from kmod.data.image_data import LabelledImages

PENALTIES = (0.3, 1.0, MODULE_REGULARIZATION, 10.0)

Layer = tuple[np.ndarray, np.ndarray]


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


def fit_scores(scores: np.ndarray, labels: np.ndarray) -> Layer:
    """Fits a multinomial logistic regression on the scores of all classes.

    A class's own score is not all that tells it from the others: that the cat
    module is unsure speaks for a dog, too. Weights are held small, with
    scores of a spread of 1, so that tens of images of each class are enough.
    How small, is what makes images that the layer was not fitted on likeliest.

    Args:
        scores: Float array `(n, num_scores)`.
        labels: int64 array `(n,)` of class indices; each class has images.

    Returns:
        float32 weights `(num_scores, num_classes)`, one column for each
        class's new score, and biases `(num_classes,)`.
    """
    penalty = MODULE_REGULARIZATION
    if np.bincount(labels).min() > 1:  # Else nothing can be compared.
        penalty = max(PENALTIES, key=lambda p: likelihood(scores, labels, p))
    return _fit(scores, labels, penalty)


def likelihood(
    scores: np.ndarray,
    labels: np.ndarray,
    penalty: float = MODULE_REGULARIZATION,
) -> float:
    """Returns the mean log-probability of the true classes.

    Every image's is by a layer that was fitted on other images.

    Args:
        scores: Float array `(n, num_scores)`.
        labels: int64 array `(n,)` of class indices, at least two of each.
        penalty: Weight of half the squared weights, beside the sum of all
            images' cross-entropies.
    """
    own = np.empty(len(labels))
    for fold in folds(labels):
        weights, bias = _fit(scores[~fold], labels[~fold], penalty)
        found = scores[fold] @ weights + bias
        truth = found[np.arange(len(found)), labels[fold]]
        own[fold] = truth - np.logaddexp.reduce(found, axis=1)
    return float(own.mean())


def _fit(scores, labels, penalty):
    from sklearn.linear_model import LogisticRegression

    # Centred scores give the same layer in a tenth of the iterations.
    middle, spread = scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-6)
    fitted = LogisticRegression(C=1 / penalty, max_iter=1000)
    fitted.fit((scores - middle) / spread, labels)
    weights, bias = fitted.coef_, fitted.intercept_
    if len(bias) == 1:  # Of two classes it is the second one's log-odds.
        weights = np.concatenate([-weights, weights]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    weights = weights / spread
    bias = bias - weights @ middle
    return weights.T.astype("float32"), bias.astype("float32")
