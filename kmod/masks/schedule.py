"""How fast kernels go."""

from keras import ops


def retention_at(progress, start, target, warm_up: float, removal_end: float):
    """Works out the retention rate at a point of the training.

    It stays at `start` during the warm-up, falls fast at first and slowly at
    the end, and stays at `target` from `removal_end` on.

    Args:
        progress: Scalar tensor, fraction of the training that is done.
        start: Scalar, retention rate at the beginning.
        target: Scalar, retention rate to come down to.
        warm_up: Fraction of the training before the first kernel goes.
        removal_end: Fraction of the training after which none goes.

    Returns:
        Scalar tensor from `target` to `start`.

    Reference:

    - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878), equation 1.
    """
    done = ops.clip((progress - warm_up) / (removal_end - warm_up), 0, 1)
    return target + (start - target) * (1 - done) ** 3
