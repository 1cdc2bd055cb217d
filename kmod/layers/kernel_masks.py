"""The kernel masks of all classes, and how gradients reach their scores."""

import keras
from keras import ops

from kmod.data.replicas import over_whole_batch


@ops.custom_gradient
def straight_through(mask, scores):
    """Returns `mask`, but lets its gradient reach `scores`.

    The mask is a step function of the scores, whose true gradient is zero
    almost everywhere. The backward pass treats the step as the identity and
    clips each element of the gradient to -1..1.

    Args:
        mask: Tensor of zeros and ones, worked out from `scores`.
        scores: Float tensor of the same shape.

    Returns:
        Tensor equal to `mask`.

    Reference:

    - [Bengio et al., 2013](https://arxiv.org/abs/1308.3432), section 4; the
      clipped form is that of
      [Qi et al., 2023](https://arxiv.org/abs/2311.04438).
    """

    def grad(*args, upstream=None):
        if upstream is None:
            (upstream,) = args
        clipped = over_whole_batch(lambda x: ops.clip(x, -1, 1), upstream)
        return ops.zeros_like(mask), clipped

    return ops.cast(mask, scores.dtype), grad


@keras.saving.register_keras_serializable(package="kmod")
class KernelMasks(keras.layers.Layer):
    """A kernel mask for each class, trained by straight-through gradients.

    In training every call works the masks out anew: what has a score above
    zero is kept. In use the masks of the last training step stand.

    Args:
        num_classes: Integer, number of masks.
        num_kernels: Integer, number of kernels, or of kernel groups.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        inputs: Any tensor; it only puts the layer into a Functional graph.

    Output shape:
        `(num_classes, num_kernels)`, zeros and ones.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438), section 3.2.
    """

    def __init__(self, num_classes, num_kernels, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.num_kernels = num_kernels
        shape = (num_classes, num_kernels)
        self.mask_scores = self._add("mask_scores", shape, "ones", True)
        self.mask = self._add("mask", shape, "ones")
        self.built = True

    def _add(self, name, shape, initializer, trainable=False):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=trainable,
            dtype="float32",
            autocast=False,
        )

    def call(self, inputs=None, training=False):
        if not training:
            return self.mask.value
        scores = self.mask_scores.value
        mask = ops.stop_gradient(ops.cast(scores > 0, "float32"))
        self.mask.assign(mask)
        return straight_through(mask, scores)

    def compute_output_spec(self, inputs=None, training=False):
        return keras.KerasTensor(self.mask.shape, "float32")

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "num_kernels": self.num_kernels,
        }
