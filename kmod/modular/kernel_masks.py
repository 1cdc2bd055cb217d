"""The kernel masks of all classes, and how training changes them."""

import keras
import numpy as np
from keras import ops

from kmod.errors import UsageError
from kmod.graph.kernels import KernelTable
from kmod.modular.macs import Macs
from kmod.modular.placement import Placement
from kmod.modular.recipe import Recipe
from kmod.modular.selection import keep_best
from kmod.modular.selection import positive_scores
from kmod.modular.selection import shares_of
from kmod.modular.selection import top_scores


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


class KernelMasks(keras.layers.Layer):
    """Mask scores, and the masks that come from them.

    In training every call works the masks out anew: with a retention target
    the kernels of highest importance that the schedule leaves room for,
    without one all kernels with a score above zero. In use the masks of the
    last training step stand.

    Args:
        num_classes: Integer, number of masks.
        placement: What masks may remove.
        recipe: How masks are trained.
        macs: What modules cost.
        **kwargs: Base layer keyword arguments, such as `name`.

    Output shape:
        `(num_classes, num_groups)`, zeros and ones.
    """

    def __init__(
        self,
        num_classes: int,
        placement: Placement,
        recipe: Recipe,
        macs: Macs,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.placement = placement
        self.recipe = recipe
        self.macs = macs
        self.frozen = False
        shape = (num_classes, len(placement.sizes))
        start = "ones" if recipe.retention_target is None else "zeros"
        self.mask_scores = self._weight("mask_scores", shape, start, True)
        self.mask = self._weight("mask", shape, "ones")
        self.step = self._weight("step", (), "zeros")
        self.total_steps = self._weight("total_steps", (), "ones")
        self.start_retention = self._weight("start_retention", (), "ones")
        self.start_macs = self._weight("start_macs", (), "ones")
        self.built = True

    def _weight(self, name, shape, initializer, trainable=False):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=trainable,
            dtype="float32",
            autocast=False,
        )

    def start(self, total_steps: int):
        """Begins a schedule of `total_steps` at the present masks."""
        self.step.assign(0)
        self.total_steps.assign(total_steps)
        self.start_retention.assign(self.retention())
        self.start_macs.assign(self.macs.of_composition(self.mask.value))

    def call(self, training=False):
        if not training:
            return self.mask.value
        self.step.assign(self.step + 1)
        scores = self.mask_scores.value
        if self.frozen:
            self.add_loss(0 * ops.sum(scores))  # A gradient, of zero.
            return self.mask.value
        mask = ops.stop_gradient(self._select(scores))
        self.mask.assign(mask)
        if self.recipe.retention_target is None:
            mask = straight_through(mask, scores)
        else:  # What a removed kernel would do now says little.
            mask = mask * straight_through(mask, scores)
        if self.recipe.penalty:
            self.add_loss(self.recipe.penalty * self._retention_of(mask))
        return mask

    def _select(self, scores):
        place = self.placement
        if self.recipe.retention_target is None:
            mask = positive_scores(scores)
        else:
            limits = self.limits(self.step)
            scores = scores / shares_of(limits)
            # What is out comes behind all that is not: it stays out.
            out = -1 / ops.maximum(scores, 1e-30)
            scores = ops.where(self.mask.value > 0, scores, out)
            mask = top_scores(scores, *limits)
        mask = ops.maximum(mask, (~place.may_go).astype("float32"))
        return keep_best(mask, scores, place.families)

    def limits(self, step):
        """Returns what keeping groups costs and what classes may spend.

        Args:
            step: Scalar, step of the schedule.

        Returns:
            List of tuples `(costs, budget)` as `top_scores` takes them.
        """
        place, recipe = self.placement, self.recipe
        kernels = place.sizes * place.may_go
        room = self._at(step, self.start_retention, recipe.retention_target)
        room = room * place.sizes.sum() - (place.sizes - kernels).sum()
        limits = [(kernels, ops.maximum(room, 0) + 0.5)]
        if recipe.macs_target is not None:
            room = self._at(step, self.start_macs, recipe.macs_target)
            room = room * self.macs.total - self.macs.stem
            macs = self.macs.of_groups(self.mask.value) * place.may_go
            limits.append((macs, room / self.mask.shape[0]))
        return limits

    def _at(self, step, start, target):
        return retention_at(
            step / self.total_steps,
            start,
            target,
            self.recipe.warm_up,
            self.recipe.removal_end,
        )

    def _retention_of(self, mask):
        share = self.placement.sizes / self.placement.sizes.sum()
        return ops.mean(ops.matmul(mask, share[:, None]))

    def retention(self) -> float:
        """Returns the share of kernels kept, averaged over classes, 0 to 1."""
        return float(self._retention_of(self.mask.value))

    def round_to(self, multiple: int, kernels: KernelTable):
        """Rounds each layer's kept kernels up, in every class; see `round_up`.

        Args:
            multiple: Integer, at least 1.
            kernels: The source model's kernels.
        """
        mask, scores = (
            ops.convert_to_numpy(values)
            for values in (self.mask, self.mask_scores)
        )
        self.mask.assign(
            round_up(mask, scores, self.placement, kernels, multiple)
        )

    def set_masks(self, masks: np.ndarray):
        """Sets masks, and scores that agree with them.

        Args:
            masks: Array `(num_classes, num_groups)` of 0 and 1.
        """
        self.mask.assign(masks)
        if self.recipe.retention_target is None:
            masks = 2 * masks - 1
        self.mask_scores.assign(masks)


def to_groups(
    masks: np.ndarray, kernels: KernelTable, placement: Placement, rows: int
) -> np.ndarray:
    """Checks kernel masks and returns them by kernel group.

    Args:
        masks: Array `(rows, num_kernels)` of 0 and 1.
        kernels: The source model's kernels.
        placement: What masks may remove.
        rows: Expected number of masks.

    Returns:
        Float array `(rows, num_groups)`.

    Raises:
        UsageError: If shape or values are wrong, kernels of a group disagree,
            a kernel that must stay is 0, or a layer would lose all kernels.
    """
    masks = np.asarray(masks)
    expected = (rows, kernels.num_kernels)
    if masks.shape != expected or not np.isin(masks, (0, 1)).all():
        raise UsageError(
            f"Kernel masks are 0/1 arrays of shape {expected}, one row per "
            f"class. Received: shape={masks.shape}, "
            f"values={np.unique(masks)[:5].tolist()}"
        )
    groups = np.zeros((rows, kernels.num_groups), "float32")
    groups[:, kernels.groups] = masks
    _check(
        groups[:, kernels.groups] == masks,
        kernels,
        "Kernels that are joined, by a residual connection say, are kept or "
        "removed together",
    )
    stays = (~placement.may_go)[kernels.groups]
    _check(
        (masks == 1) | ~stays,
        kernels,
        "Kernels of the stem and pinned kernels must be kept",
    )
    for family in placement.families:
        if not groups[:, family].any(axis=1).all():
            layer = kernels.layers[placement.home[family[0]]]
            raise UsageError(
                "Every layer keeps at least one kernel in every class. "
                f"Received: none of layer {layer!r} in class "
                f"{int(np.argmin(groups[:, family].any(axis=1)))}"
            )
    return groups


def _check(holds, kernels, rule):
    if not holds.all():
        row, kernel = np.argwhere(~holds)[0]
        _, layer, index, _ = kernels.rows()[kernel]
        raise UsageError(
            f"{rule}. Received: a mask that breaks this at kernel {kernel} "
            f"(number {index} of layer {layer!r}) in class {row}"
        )


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


def round_up(
    mask: np.ndarray,
    scores: np.ndarray,
    placement: Placement,
    kernels: KernelTable,
    multiple: int,
) -> np.ndarray:
    """Takes the best removed kernels back until each count is a multiple.

    Processors compute in blocks of channels, so that a layer of 13 kernels can
    take as long as one of 16.

    Args:
        mask: Array of 0 and 1, `(num_classes, num_groups)`.
        scores: Array of that shape, what kernels are worth.
        placement: What masks may remove.
        kernels: The source model's kernels.
        multiple: Integer, at least 1. A layer that has fewer kernels in all
            keeps all of them.

    Returns:
        Array of that shape: for each class and layer the kept kernels are a
        multiple of `multiple`, or all there are.
    """
    mask = np.array(mask)
    for index, layer in enumerate(kernels.layers):
        # Joined kernels are counted where they first come.
        own = np.flatnonzero((placement.home == index) & placement.may_go)
        groups = np.unique(kernels.groups[kernels.ids_of(layer)])
        if not len(own):
            continue
        for row, worth in zip(mask, scores):
            missing = -int(row[groups].sum()) % multiple
            removed = own[row[own] == 0]
            best = removed[np.argsort(-worth[removed], kind="stable")]
            row[best[:missing]] = 1
    return mask
