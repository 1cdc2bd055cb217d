"""How important each kernel is to each class."""

import keras
import numpy as np
from keras import ops

from kmod.modular.modular_model import ModularModel


class FeatureNorms(keras.Model):
    """Measures how strongly each kernel group answers an image.

    Args:
        modular: Modular model whose masked tensors to measure.

    Output shape:
        `(batch, num_groups)`: L1 norm of the group's channels in all tensors
        that masks multiply, 0 where there is none.
    """

    def __init__(self, modular: ModularModel):
        super().__init__()
        self.network = modular.network
        self.num_groups = len(modular.placement.sizes)

    def call(self, images):
        norms = 0
        for groups, axis, value in self.network.masked_values(images):
            axes = [i for i in range(1, len(value.shape)) if i != axis]
            of_channels = ops.sum(ops.abs(value), axis=axes)
            columns = groups[:, None] == np.arange(self.num_groups)
            norms += ops.matmul(of_channels, columns.astype("float32"))
        return norms


def kernel_importance(
    modular: ModularModel,
    images: np.ndarray,
    labels: np.ndarray,
    confidence: float = 0.9,
) -> np.ndarray:
    """Measures the importance of every kernel group for every class.

    It is the mean L1 norm of the group's feature maps over the images of the
    class that the source model is sure of, measured behind normalisation,
    activation and pooling, on the very tensors that masks multiply. Kernels
    that a residual connection ties are one group and have one importance.

    Args:
        modular: Modular model of the source.
        images: Images `(n, ...)`.
        labels: Integer class indices `(n,)`.
        confidence: Probability of its class from which an image counts. A
            class without any such image counts the surest of its images.

    Returns:
        float64 array `(num_classes, num_groups)`, comparable within a layer.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.2.1
    """
    logits = modular.flat_source.predict(images, batch_size=256, verbose=0)
    own = _softmax(logits)[np.arange(len(labels)), labels]
    norms = FeatureNorms(modular).predict(images, batch_size=256, verbose=0)
    importance = np.zeros((modular.num_classes, norms.shape[1]))
    for index in np.unique(labels):
        of_class = labels == index
        sure = min(confidence, own[of_class].max())
        importance[index] = norms[of_class & (own >= sure)].mean(axis=0)
    return importance


def _softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
