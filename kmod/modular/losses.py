"""Losses on module scores."""

import keras
from keras import ops

from kmod.data.replicas import mean_over_images
from kmod.modular.recipe import Recipe

UNSEEN = -1e9  # Stands where a module did not see an image.


@keras.saving.register_keras_serializable(package="kmod")
class ModuleLoss(keras.losses.Loss):
    """Lets modules agree on the class and each know its own.

    Softmax cross-entropy over the raw scores of all modules that saw an image
    makes them comparable with each other; binary cross-entropy of each score
    makes it a log-odds of its own, so that it keeps its meaning beside modules
    of other models. Modules that did not see an image take no part.

    Args:
        binary_weight: Float, weight of the binary term. Defaults to 0.2.
        negative_weight: Float, how many modules each one that does not own
            the image stands for. Defaults to 1.
        name: Name of the loss.

    Call arguments:
        y_true: Class indices, `(batch,)` or `(batch, 1)`, or one-hot.
        y_pred: Raw scores `(batch, num_classes)`.
    """

    def __init__(
        self,
        binary_weight=0.2,
        negative_weight=1.0,
        name="module_loss",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.binary_weight = binary_weight
        self.negative_weight = negative_weight

    def call(self, y_true, y_pred):
        own = ops.one_hot(indices_of(y_true), y_pred.shape[-1])
        own = ops.cast(own, y_pred.dtype)
        stands_for = own + (1 - own) * self.negative_weight
        shared = ops.logsumexp(y_pred + ops.log(stands_for), axis=-1)
        shared -= ops.sum(own * y_pred, axis=-1)
        alone = ops.softplus(y_pred) - own * y_pred
        return shared + self.binary_weight * ops.sum(stands_for * alone, -1)

    def get_config(self):
        return {
            **super().get_config(),
            "binary_weight": self.binary_weight,
            "negative_weight": self.negative_weight,
        }


@keras.saving.register_keras_serializable(package="kmod")
class SigmoidCrossEntropy(keras.losses.Loss):
    """The published loss: softmax cross-entropy of sigmoid scores.

    Squashing twice bounds it below by `ln(1 + (N - 1) / e)`, 1.461 for ten
    classes. It is kept to compare with; `ModuleLoss` is the sound one.

    Call arguments:
        y_true: Class indices, `(batch,)` or `(batch, 1)`, or one-hot.
        y_pred: Raw scores `(batch, num_classes)`, before the sigmoid.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438), section 3.2.
    """

    def __init__(self, name="sigmoid_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        # Written out: Keras' own function looks behind a sigmoid for logits.
        scores = ops.sigmoid(y_pred)
        own = ops.one_hot(indices_of(y_true), y_pred.shape[-1])
        right = ops.sum(ops.cast(own, scores.dtype) * scores, axis=-1)
        return ops.logsumexp(scores, axis=-1) - right


def indices_of(labels):
    """Returns class indices of labels in any form, `(batch,)`.

    Args:
        labels: Class indices `(batch,)` or `(batch, 1)`, or one-hot
            `(batch, num_classes)`.
    """
    if len(labels.shape) == 2 and labels.shape[1] != 1:
        return ops.argmax(labels, axis=1)
    return ops.reshape(ops.cast(labels, "int32"), (-1,))


def distillation_loss(scores, logits, classes, temperature: float):
    """Compares the modules' answers with the source model's own.

    Both are softened and made probabilities among the modules that saw the
    image, so that no module has to stand for others. Unmasked modules with
    linear heads start at zero, the least value.

    Args:
        scores: Raw scores of the rows, `(batch, rows)`.
        logits: The source model's logits, `(batch, num_classes)`.
        classes: Module of each row, `(batch, rows)`, or `None` for all in
            order.
        temperature: What both are divided by.

    Returns:
        Scalar: mean Kullback-Leibler divergence of the modules' answer from
        the source model's, times `temperature` squared.

    Reference:

    - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), section 2.
    """
    if classes is not None:
        logits = ops.take_along_axis(logits, classes, axis=1)
    wanted = ops.log_softmax(logits / temperature, axis=-1)
    answer = ops.log_softmax(scores / temperature, axis=-1)
    divergence = ops.sum(ops.exp(wanted) * (wanted - answer), axis=-1)
    return temperature**2 * mean_over_images(divergence)


def loss_of(
    recipe: Recipe, num_classes: int, num_rows: int
) -> keras.losses.Loss:
    """Returns a recipe's loss on raw scores.

    Args:
        recipe: The recipe.
        num_classes: Integer, number of modules.
        num_rows: Integer, modules that see an image; those that do not own
            it stand for all others.
    """
    if recipe.published_loss:
        return SigmoidCrossEntropy()
    return ModuleLoss(negative_weight=(num_classes - 1) / (num_rows - 1))
