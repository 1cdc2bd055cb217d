"""Callback that runs the published schedule of phases."""

import keras

from kmod.errors import UsageError
from kmod.modular.modular_model import ModularModel
from kmod.modular.optimizer import ModularAdam


class PhaseSchedule(keras.callbacks.Callback):
    """Switches between training heads alone and training masks too.

    Every phase begins with a fresh state of the optimiser. While heads train
    alone, masks stand still and no gradient is worked out for them.

    Raises:
        UsageError: When training begins, if the model's recipe has no phases
            or its optimiser is not a `ModularAdam`.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438), section 3.2.
    """

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, ModularModel) or not (
            isinstance(self.model.optimizer, ModularAdam)
            and self.model.recipe.phases
        ):
            raise UsageError(
                "`PhaseSchedule` needs a `ModularModel` with a recipe that "
                "has phases, compiled with `ModularAdam`. Received: "
                f"model={self.model.name!r} of type "
                f"{type(self.model).__name__}. Use `recipe='paper'`."
            )

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
