"""How the kernel masks of a modular model change over the training."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kmod.graph.kernels import KernelTable
from kmod.layers import KernelMasks
from kmod.layers.kernel_masks import straight_through
from kmod.modular.macs import Macs
from kmod.modular.placement import Placement
from kmod.modular.recipe import Recipe

SORTED_AT_ONCE = 2**19  # Scores. With more, masks change every few steps,
LEAST_CHANGES = 64  # but at least so often in a training.


class ScheduledMasks(KernelMasks):
    """Kernel masks by group, which a recipe's schedule takes kernels from.

    In training the masks are worked out anew: with a retention target the
    groups of highest importance that the schedule leaves room for, without
    one all groups with a score above zero. Every call does so, unless there
    are so many importances that sorting them would take longer than the step:
    then every few calls do. In use the masks of the last training step stand.

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
        super().__init__(num_classes, len(placement.sizes), **kwargs)
        self.placement = placement
        self.recipe = recipe
        self.macs = macs
        self.frozen = False
        if recipe.retention_target is not None:
            self.mask_scores.assign(ops.zeros(self.mask_scores.shape))
        self.step = self._add("step", (), "zeros")
        self.total_steps = self._add("total_steps", (), "ones")
        self.start_retention = self._add("start_retention", (), "ones")
        self.start_macs = self._add("start_macs", (), "ones")
        self.num_scores = num_classes * self.num_kernels
        may_go = placement.may_go
        self.own = np.flatnonzero(may_go)
        self.columns = np.where(may_go, may_go.cumsum(), 0)
        self.families = [
            np.searchsorted(self.own, f) for f in placement.families
        ]
        self.steps_apart = self._add("steps_apart", (), "ones")

    def start(self, total_steps: int):
        """Begins a schedule of `total_steps` at the present masks."""
        self.step.assign(0)
        self.total_steps.assign(total_steps)
        self.steps_apart.assign(steps_apart(self.num_scores, total_steps))
        self.start_retention.assign(self.retention())
        self.start_macs.assign(self.macs.of_composition(self.mask.value))

    def call(self, inputs=None, training=False):
        if not training:
            return self.mask.value
        self.step.assign(self.step + 1)
        scores = self.mask_scores.value
        if self.frozen:
            self.add_loss(0 * ops.sum(scores))  # A gradient, of zero.
            return self.mask.value
        mask = ops.stop_gradient(self._now(scores))
        self.mask.assign(mask)
        if self.recipe.retention_target is None:
            mask = straight_through(mask, scores)
        else:  # What a removed kernel would do now says little.
            mask = mask * straight_through(mask, scores)
        if self.recipe.penalty:
            self.add_loss(self.recipe.penalty * self._retention_of(mask))
        return mask

    def _now(self, scores):
        """Returns the masks of this step."""
        is_sorted = self.recipe.retention_target is not None
        if not is_sorted or self.num_scores < 2 * SORTED_AT_ONCE:
            return self._select(scores)
        return ops.cond(
            ops.equal(self.step % self.steps_apart, 0),
            lambda: self._select(scores),
            lambda: ops.convert_to_tensor(self.mask.value),
        )

    def _select(self, scores):
        worth = self._own(scores)
        if self.recipe.retention_target is None:
            kept = ops.cast(worth > 0, "float32")
        else:
            limits = [
                (self._own(x), room) for x, room in self.limits(self.step)
            ]
            worth = worth / shares_of(limits)
            # What is out comes behind all that is not: it stays out.
            out = -1 / ops.maximum(worth, 1e-30)
            worth = ops.where(self._own(self.mask.value) > 0, worth, out)
            kept = top_scores(worth, *limits)
        kept = keep_best(kept, worth, self.families)
        stays = ops.ones_like(kept[:, :1])
        kept = ops.concatenate([stays, kept], axis=1)
        return ops.take(kept, self.columns, axis=1)

    def _own(self, values):
        """Returns what values are of groups that may go."""
        return ops.take(values, self.own, axis=-1)

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


class PhaseSchedule(keras.callbacks.Callback):
    """Switches between training heads alone and training masks too.

    Every phase begins with a fresh state of the optimiser. While heads train
    alone, masks stand still and no gradient is worked out for them.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438), section 3.2.
    """

    def on_epoch_begin(self, epoch, logs=None):
        phase, is_first = self._phase_at(epoch)
        if is_first:
            self.model.optimizer.restart(0, phase.learning_rate)
        if self.model.masks.frozen == phase.trains_masks:
            self.model.masks.frozen = not phase.trains_masks
            self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        self.model.masks.frozen = False

    def _phase_at(self, epoch):
        start = 0
        for phase in self.model.recipe.phases:
            if epoch < start + phase.epochs:
                return phase, epoch == start
            start += phase.epochs
        return phase, False


def steps_apart(num_scores: int, total_steps: int) -> int:
    """Returns how many steps of a training masks stand still for.

    Args:
        num_scores: Integer, mask scores of all classes.
        total_steps: Integer, steps of the training.
    """
    return max(
        1, min(num_scores // SORTED_AT_ONCE, total_steps // LEAST_CHANGES)
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


def top_scores(scores, *limits):
    """Keeps the groups with the highest scores while they fit in budgets.

    Args:
        scores: Float tensor `(num_classes, num_groups)`.
        *limits: Tuples `(costs, budget)`: what keeping each group costs,
            `(num_groups,)` or `(num_classes, num_groups)`, and what a class
            may spend, a scalar.

    Returns:
        Tensor of zeros and ones, `(num_classes, num_groups)`.
    """
    scores = ops.convert_to_tensor(scores)
    order = ops.argsort(-scores, axis=-1)
    fits = ops.ones_like(scores)
    for costs, budget in limits:
        costs = ops.broadcast_to(costs, scores.shape)
        spent = ops.cumsum(ops.take_along_axis(costs, order, axis=-1), axis=-1)
        fits = fits * ops.cast(spent <= budget, scores.dtype)
    return ops.take_along_axis(fits, ops.argsort(order, axis=-1), axis=-1)


def shares_of(limits):
    """Returns what part of what a class may spend each group takes.

    Removing a large group costs more and frees more: importances are compared
    as multiples of this.

    Args:
        limits: Tuples `(costs, budget)` as `top_scores` takes them.

    Returns:
        Tensor or array of the costs' shape, above zero.
    """
    return ops.maximum(sum(costs / budget for costs, budget in limits), 1e-6)


def keep_best(mask, scores, families: Sequence[np.ndarray]):
    """Switches the best group on in every family that lost all of its own.

    No layer of a module may become empty: a cut layer without kernels does
    not exist, so the masked model must not have one either.

    Args:
        mask: Tensor of zeros and ones, `(num_classes, num_groups)`.
        scores: Float tensor of that shape.
        families: Integer arrays of groups, one of which must remain.

    Returns:
        `mask` with at least one group on in every family.
    """
    for family in families:
        own = ops.take(scores, family, axis=1)
        empty = ops.max(ops.take(mask, family, axis=1), axis=1, keepdims=True)
        best = ops.one_hot(ops.argmax(own, axis=1), len(family))
        revived = ops.cast(best, "float32") * (1 - empty)
        columns = ops.one_hot(family, mask.shape[1])
        mask = mask + ops.matmul(revived, ops.cast(columns, "float32"))
    return ops.minimum(mask, 1)
