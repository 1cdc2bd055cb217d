"""Callback that tells kernel masks what kernels are worth."""

import keras
import numpy as np
from keras import ops

from kmod.masks.importance import joint_importances
from kmod.masks.optimizer import modular_adam_of

UPDATES = 24


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
