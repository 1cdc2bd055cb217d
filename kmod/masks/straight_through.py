"""Straight-through estimator of the step from mask score to mask."""

from keras import ops


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
        return ops.zeros_like(mask), ops.clip(upstream, -1, 1)

    return ops.cast(mask, scores.dtype), grad
