"""Callback that keeps the epoch with the smallest good modules."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
from keras import ops

from kmod.files import atomic_write
from kmod.masks.modular_model import ModularModel


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
    does. The choice so far is kept in `directory`, so that a resumed training
    knows it.

    Args:
        source_accuracy: Float, the source model's validation accuracy.
        accuracy_budget: Float, accuracy that modules may lose, as a share of
            all images. Defaults to 0.01.
        directory: Directory to keep the choice in. Defaults to none.

    Raises:
        ValueError: At the end of an epoch without validation data.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438): the rule that the
      authors apply by hand.
    """

    def __init__(
        self,
        source_accuracy: float,
        accuracy_budget: float = 0.01,
        directory: str | Path | None = None,
    ):
        super().__init__()
        self.least_accuracy = source_accuracy - accuracy_budget
        self.directory = None if directory is None else Path(directory)
        self.best = None
        self._weights = None

    def on_train_begin(self, logs=None):
        self.best, self._weights = None, None
        if self.directory is not None and self._choice_file.exists():
            self._load()

    def on_epoch_begin(self, epoch, logs=None):
        # Training may start over although an earlier choice lies there.
        if self.best is not None and self.best.epoch >= epoch:
            self.best, self._weights = None, None

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
            self._weights = [ops.convert_to_numpy(v) for v in self._variables]
            if self.directory is not None:
                self._save()

    def on_train_end(self, logs=None):
        if self.best is not None:
            for variable, value in zip(self._variables, self._weights):
                variable.assign(value)

    @property
    def _variables(self):
        model: ModularModel = self.model
        return [*model.trainable_variables, model.masks.mask]

    @property
    def _choice_file(self):
        return self.directory / "selection.json"

    def _save(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        name = f"selection-{self.best.epoch:04d}.npz"
        with open(self.directory / name, "wb") as file:
            np.savez(file, *self._weights)
        choice = {**dataclasses.asdict(self.best), "weights": name}
        atomic_write(self._choice_file, json.dumps(choice))
        for old in self.directory.glob("selection-*.npz"):
            if old.name != name:
                old.unlink()

    def _load(self):
        choice = json.loads(self._choice_file.read_text())
        with np.load(self.directory / choice.pop("weights")) as arrays:
            self._weights = list(arrays.values())
        self.best = Candidate(**choice)
