"""Callback that keeps the epoch with the smallest good modules."""

import dataclasses

import keras
from keras import ops

from kmod.errors import UsageError


@dataclasses.dataclass(frozen=True)
class EpochModules:
    """One epoch's modules.

    Attributes:
        epoch: Number of the epoch, from 0.
        accuracy: Validation accuracy of all modules together, 0 to 1.
        retention_rate: Kept kernels ÷ all kernels, 0 to 1.
        least_accuracy: What they had to reach to be within the budget, 0 to
            1.
    """

    epoch: int
    accuracy: float
    retention_rate: float
    least_accuracy: float | None = None

    @property
    def is_within_budget(self) -> bool:
        """Whether they were chosen for their few kernels, not accuracy."""
        return (
            self.least_accuracy is not None
            and self.accuracy >= self.least_accuracy
        )

    def rank(self, least_accuracy: float) -> tuple:
        """Returns a key that is larger for better modules.

        Among those with enough accuracy the fewest kernels win, then the
        higher accuracy; all others rank behind, by accuracy.
        """
        if self.accuracy >= least_accuracy:
            return (True, -round(self.retention_rate, 6), self.accuracy)
        return (False, self.accuracy, -self.retention_rate)


class BestModules(keras.callbacks.Callback):
    """Restores, when training ends, the epoch whose modules are best.

    Best are the modules with the fewest kernels among those that lose at most
    `accuracy_budget` on validation data, or the most accurate ones if none
    does. The `ModularModel` keeps what was chosen as its `chosen_epoch`.

    Args:
        accuracy_budget: Float, accuracy that modules may lose, as a share of
            all images. Defaults to 0.01.
        source_accuracy: Float, the source model's validation accuracy.
            Defaults to what `fit` measures on its `validation_data`.

    Attributes:
        best: `EpochModules` of the best epoch so far, `None` before the
            first.
        weights: Its weights, arrays.

    Raises:
        UsageError: At the end of an epoch without validation data.

    Example:

    ```python
    best = kmod.callbacks.BestModules(accuracy_budget=0.005)
    modular.fit(train, validation_data=val, epochs=10, callbacks=[best])
    print(best.best.epoch, best.best.retention_rate)
    ```

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438): the rule that the
      authors apply by hand.
    """

    def __init__(
        self,
        accuracy_budget: float = 0.01,
        source_accuracy: float | None = None,
    ):
        super().__init__()
        self.accuracy_budget = accuracy_budget
        self.source_accuracy = source_accuracy
        self.best, self.weights = None, None

    def on_train_begin(self, logs=None):
        self.best, self.weights = None, None

    def on_epoch_end(self, epoch, logs=None):
        if "val_accuracy" not in (logs or {}) or self.source_accuracy is None:
            raise UsageError(
                "`BestModules` chooses on validation data, by accuracy. "
                f"Received: logs of {sorted(logs or {})}. Give `fit` its "
                "`validation_data`, and `compile` the metric 'accuracy'."
            )
        least = self.source_accuracy - self.accuracy_budget
        epoch_modules = EpochModules(
            epoch,
            float(logs["val_accuracy"]),
            self.model.retention_rate,
            least,
        )
        rank = epoch_modules.rank(least)
        if self.best is None or rank > self.best.rank(least):
            self.best = epoch_modules
            self.weights = [ops.convert_to_numpy(v) for v in self.variables]

    def on_train_end(self, logs=None):
        self.model.chosen_epoch = self.best
        if self.best is not None:
            for variable, value in zip(
                self.variables, self.weights, strict=True
            ):
                variable.assign(value)

    @property
    def variables(self):
        """What it keeps of the best epoch, variables of the model."""
        return [*self.model.trainable_variables, self.model.masks.mask]
