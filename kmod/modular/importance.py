"""What each kernel group is worth to a class beside those it keeps."""

import keras
import numpy as np
from keras import ops

from kmod.modular.optimizer import modular_adam_of

RIDGE = 0.01  # Of the mean curvature: what never had a gradient has some.
ROUNDS = 512  # At least so many groups go one by one.
UPDATES = 24


def joint_importances(
    gradients: np.ndarray,
    costs: np.ndarray,
    budgets: np.ndarray,
    own_importance: float,
) -> np.ndarray:
    """Removes groups, least important first, until the rest fits in budgets.

    Two groups that do the same are worth little as long as both are there,
    and much when one is gone. The loss is taken as quadratic around the present
    masks with the gradients' second moment as its curvature. A group's
    importance is by how much the loss rises without it if all groups that are
    left are scaled anew, and is worked out again after each removal. With
    as few gradients as there are, the curvature between groups is uncertain:
    `own_importance` draws it towards its diagonal.

    Args:
        gradients: Array `(steps, num_groups)`: one class's mask gradients.
        costs: Array `(num_budgets, num_groups)`, what keeping a group costs.
        budgets: Array `(num_budgets,)`, what the class may spend.
        own_importance: Float above 0 and up to 1, weight of the diagonal; 1
            is the first-order Taylor estimate of each group by itself.

    Returns:
        Array `(num_groups,)`, importances. Divided by each group's shares of
        the budgets they rise in the order of removal, those of the groups that
        fit come last.

    References:

    - Hassibi and Stork, 1992, "Second order derivatives for network pruning:
      Optimal Brain Surgeon": the rise of the loss, and its next inverse.
    - [Singh and Alistarh, 2020](https://arxiv.org/abs/2004.14340), section 3:
      the inverse from gradients.
    - [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771), equation 8:
      the estimate of each group by itself.
    """
    curvature = _Curvature(gradients, own_importance)
    shares = (costs / budgets[:, None]).sum(axis=0).clip(1e-6)
    left = np.ones(len(shares), bool)
    worth = np.empty(len(shares))
    least = 0.0
    while True:
        now = np.maximum(curvature.importances() / shares, least)
        worth[left] = now[left]
        if not left.any() or np.all(costs @ left <= budgets):
            return worth * shares
        count = 1 + left.sum() // ROUNDS
        groups = np.flatnonzero(left)
        groups = groups[np.argsort(now[left], kind="stable")[:count]]
        least = worth[groups].max()
        left[groups] = False
        curvature.remove(groups)


class _Curvature:
    """Second moment of gradients, drawn to its diagonal, and its inverse.

    With the diagonal `D` and the gradients `V` it is `D + V' V`. Its inverse
    follows from that of `H = 1 + V D^-1 V'`, which is as large as there are
    gradients, however many groups there are.
    """

    def __init__(self, gradients, own_importance):
        steps = max(len(gradients), 1)
        values = np.asarray(gradients, "float64") / np.sqrt(steps)
        power = (values**2).sum(axis=0)
        mean = power.mean() or 1.0
        self.values = values * np.sqrt(1 - own_importance)
        self.diagonal = own_importance * power + RIDGE * mean
        inner = (self.values / self.diagonal) @ self.values.T
        self.inverse = np.linalg.inv(np.eye(len(values)) + inner)
        self.explained = (self.values * (self.inverse @ self.values)).sum(0)

    def importances(self):
        """Returns 1 ÷ the diagonal of the inverse, for every group left."""
        rest = self.diagonal - self.explained
        return self.diagonal**2 / rest.clip(1e-9 * self.diagonal)

    def remove(self, groups):
        """Takes groups out of the curvature."""
        values = self.values[:, groups]
        reach = self.inverse @ values
        core = np.diag(self.diagonal[groups]) - values.T @ reach
        change = np.linalg.solve(core, reach.T)
        self.inverse += reach @ change
        self.explained += (
            (reach.T @ self.values) * (change @ self.values)
        ).sum(axis=0)


class ImportanceUpdates(keras.callbacks.Callback):
    """Sets mask scores to importances, from the gradients that masks got.

    It does so `UPDATES` times between the warm-up and the end of removal,
    each time looking ahead to the next. Modular models that train with
    another optimiser than `ModularAdam`, or without a retention target, are
    left alone.

    Args:
        steps_per_epoch: Integer, training steps of one epoch.
        total_steps: Integer, training steps of all epochs.
    """

    def __init__(self, steps_per_epoch: int, total_steps: int):
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps
        self.to_come = []

    def on_train_begin(self, logs=None):
        recipe = self.model.recipe
        self.to_come = []
        adam = modular_adam_of(self.model.optimizer)
        if adam and adam.importance_steps is not None:
            ends = np.linspace(recipe.warm_up, recipe.removal_end, UPDATES + 1)
            steps = np.floor(ends * self.total_steps).astype(int)
            self.to_come = np.unique(steps).tolist()

    def on_epoch_begin(self, epoch, logs=None):
        self.done = epoch * self.steps_per_epoch
        self._reached(self.done)  # Of a run that was cut short.

    def on_train_batch_end(self, batch, logs=None):
        if self._reached(self.done + batch + 1) and self.to_come:
            self._update(self.to_come[0])

    def _reached(self, step):
        """Drops the updates up to a step; tells whether there were any."""
        before = len(self.to_come)
        self.to_come = [later for later in self.to_come if later > step]
        return len(self.to_come) < before

    def _update(self, next_step):
        model = self.model
        if hasattr(model, "jax_state_sync"):
            model.jax_state_sync()
        gradients = modular_adam_of(model.optimizer).mask_gradients
        scores = ops.convert_to_numpy(model.masks.mask_scores)
        mask = ops.convert_to_numpy(model.masks.mask)
        limits = [
            (np.broadcast_to(costs, mask.shape), float(budget))
            for costs, budget in model.masks.limits(next_step)
        ]
        costs = np.stack([costs for costs, _ in limits], axis=1)
        budgets = np.array([budget for _, budget in limits])
        updated = np.array(scores)
        for row in range(len(mask)):
            own = (mask[row] > 0) & model.placement.may_go
            updated[row, own] = joint_importances(
                gradients[:, row, own],
                costs[row][:, own],
                budgets,
                model.recipe.own_importance,
            )
        model.masks.mask_scores.assign(updated)
