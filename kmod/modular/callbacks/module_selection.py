"""Callback that keeps the epoch with the smallest good modules."""

import dataclasses

import keras
from keras import ops

from kmod.modular.modular_model import ModularModel


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One epoch's modules.

    Attributes:
        epoch: Number of the epoch, from 0.
        accuracy: Validation accuracy of all modules together, 0 to 1.
        retention_rate: Kept kernels ÷ all kernels, 0 to 1.
    """

    epoch: int
    accuracy: float
    retention_rate: float

    def rank(self, least_accuracy: float) -> tuple:
        """Returns a key that is larger for better modules.

        Among those with enough accuracy the fewest kernels win, then the
        higher accuracy; all others rank behind, by accuracy.
        """
        if self.accuracy >= least_accuracy:
            return (True, -round(self.retention_rate, 6), self.accuracy)
        return (False, self.accuracy, -self.retention_rate)


class ModuleSelection(keras.callbacks.Callback):
    """Restores, when training ends, the epoch whose modules are best.

    Best are the modules with the fewest kernels among those that lose at most
    `accuracy_budget` on validation data, or the most accurate ones if none
    does.

    Args:
        source_accuracy: Float, the source model's validation accuracy.
        accuracy_budget: Float, accuracy that modules may lose, as a share of
            all images. Defaults to 0.01.

    Attributes:
        best: `Candidate` of the best epoch so far, `None` before the first.
        weights: Its weights, arrays.

    Raises:
        ValueError: At the end of an epoch without validation data.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438): the rule that the
      authors apply by hand.
    """

    def __init__(self, source_accuracy: float, accuracy_budget: float = 0.01):
        super().__init__()
        self.least_accuracy = source_accuracy - accuracy_budget
        self.best, self.weights = None, None

    def on_train_begin(self, logs=None):
        self.best, self.weights = None, None

    def on_epoch_end(self, epoch, logs=None):
        if "val_accuracy" not in (logs or {}):
            raise ValueError(
                "`ModuleSelection` chooses on validation data. Received: none. "
                "Give `fit` its `validation_data`, and keep the metric "
                "'accuracy'."
            )
        candidate = Candidate(
            epoch, float(logs["val_accuracy"]), self.model.retention_rate
        )
        rank = candidate.rank(self.least_accuracy)
        if self.best is None or rank > self.best.rank(self.least_accuracy):
            self.best = candidate
            self.weights = [ops.convert_to_numpy(v) for v in self._variables]

    def on_train_end(self, logs=None):
        if self.best is not None:
            for variable, value in zip(
                self._variables, self.weights, strict=True
            ):
                variable.assign(value)

    @property
    def _variables(self):
        model: ModularModel = self.model
        return [*model.trainable_variables, model.masks.mask]
