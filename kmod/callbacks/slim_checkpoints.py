"""Callback that keeps a slimming, epoch by epoch, so that it can go on."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from kmod.callbacks.epoch_checkpoints import by_name
from kmod.errors import ArtifactError
from kmod.files.run_directory import RunDirectory

STAGE = "slim"
_STOPPING = ("best", "best_epoch", "wait")


class SlimCheckpoints(keras.callbacks.Callback):
    """Saves a slimming after every epoch and goes on with one cut short.

    A checkpoint is one file and holds all that the rest depends on: which
    kernels are gone, weights, the optimiser's state and the best epoch so far.
    What other callbacks know is left out.

    It stands behind all other callbacks.

    Args:
        run: Where checkpoints are, `None` to keep none.

    Attributes:
        masks: Of each removal so far which kernel groups it left, zeros and
            ones.
        budgets: What the network may cost, by name.
        stopping: The callback that chooses the epoch, if one does by now.
        goes_on: Whether the training that begins goes on with one.
    """

    def __init__(self, run: RunDirectory | None):
        super().__init__()
        self.run = run
        self.masks = []
        self.budgets = None
        self.stopping = None
        self.goes_on = False
        self._last = None if run is None else run.latest(STAGE)
        if self._last is not None:
            self.budgets = self._last.data["budgets"]

    @property
    def num_epochs(self) -> int:
        """Number of epochs that were done before."""
        return 0 if self._last is None else self._last.number

    def mask_of(self, removal: int) -> np.ndarray | None:
        """Returns what a removal left, `None` if it was not reached.

        Args:
            removal: Integer, number of the removal, from 0.
        """
        found = self._arrays("mask")
        return found[removal] if removal < len(found) else None

    def removed(self, network: keras.Model, mask: np.ndarray) -> None:
        """Takes note of a removal; behind the last known one, weights return.

        Args:
            network: What the removal made.
            mask: Which kernel groups it left.
        """
        self.masks.append(mask)
        if len(self.masks) == len(self._arrays("mask")):
            _assign(network.weights, self._arrays("model"), self._misfit)

    def on_train_begin(self, logs=None):
        if not self.goes_on:
            return
        own, saved = self.model.optimizer.variables, self._arrays("optimizer")
        _assign(own, saved, self._misfit)
        if self.stopping is not None:
            for name in _STOPPING:
                setattr(self.stopping, name, self._last.data[name])
            self.stopping.best_weights = self._arrays("best")

    def on_epoch_end(self, epoch, logs=None):
        if self.run is None:
            return
        best, data = [], {"budgets": self.budgets}
        if self.stopping is not None:
            best = self.stopping.best_weights
            data |= {name: getattr(self.stopping, name) for name in _STOPPING}
        arrays = {
            "mask": self.masks,
            "model": map(ops.convert_to_numpy, self.model.weights),
            "optimizer": map(
                ops.convert_to_numpy, self.model.optimizer.variables
            ),
            "best": best,
        }
        self.run.save(STAGE, epoch + 1, data, by_name(arrays))

    def _arrays(self, group):
        saved: Mapping = {} if self._last is None else self._last.arrays
        return [saved[n] for n in sorted(saved) if n.startswith(f"{group}_")]

    def _misfit(self):
        return ArtifactError(
            "A run goes on with checkpoints of its own network. Received: "
            f"other weights, in the last one in '{self.run.path}'. Leave "
            "`resume` out to start anew."
        )


def _assign(variables, values, misfit):
    own = [tuple(variable.shape) for variable in variables]
    if own != [value.shape for value in values]:
        raise misfit()
    for variable, value in zip(variables, values):
        variable.assign(value)
