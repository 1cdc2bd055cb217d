"""Callback that keeps a training, epoch by epoch, so that it can go on."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kmod.callbacks.best_modules import BestModules
from kmod.callbacks.best_modules import EpochModules
from kmod.errors import ArtifactError
from kmod.files.run_directory import RunDirectory

STAGE = "epoch"


class EpochCheckpoints(keras.callbacks.Callback):
    """Saves a training after every epoch and goes on with one cut short.

    A checkpoint is one file and holds all that the rest depends on: weights,
    the optimiser's state, the best epoch so far, the history, and whether a
    callback stopped the training. So the end is the same as without the cut.
    The source's own weights are left out, which never change, and so is what
    other callbacks know.

    It stands behind all other callbacks, `keras.callbacks.History` included,
    and trains once: give `fit` its `initial_epoch`.

    Args:
        run: Where checkpoints are.
        best_modules: The callback that chooses the epoch.
    """

    def __init__(self, run: RunDirectory, best_modules: BestModules):
        super().__init__()
        self.run = run
        self.best_modules = best_modules
        self._last = run.latest(STAGE)

    def initial_epoch(self, epochs: int) -> int:
        """Returns the first epoch to train; `epochs` if none is left."""
        if self._last is None:
            return 0
        number, data = self._last.number, self._last.data
        if number > epochs or data.get("epoch") != list(range(number)):
            raise self._misfit(f"epochs {data.get('epoch')} of {epochs}")
        return epochs if self._last.data["stopped"] else self._last.number

    def on_train_begin(self, logs=None):
        if self._last is None:
            return
        data, arrays = self._last.data, self._last.arrays
        variables = by_name(self._variables())
        if data["best"] is not None:
            variables |= by_name({"best": self.best_modules.variables})
        shapes = {name: tuple(each.shape) for name, each in variables.items()}
        if shapes != {name: arrays[name].shape for name in arrays}:
            raise self._misfit("other weights than the run's")
        for name, variable in by_name(self._variables()).items():
            variable.assign(arrays[name])
        history = self.model.history
        history.epoch, history.history = data["epoch"], data["history"]
        if data["best"] is not None:
            self.best_modules.best = EpochModules(**data["best"])
            self.best_modules.weights = [
                arrays[name] for name in arrays if name.startswith("best_")
            ]

    def on_epoch_end(self, epoch, logs=None):
        best = self.best_modules.best
        history = self.model.history
        arrays = {
            name: ops.convert_to_numpy(variable)
            for name, variable in by_name(self._variables()).items()
        }
        arrays |= by_name({"best": self.best_modules.weights or []})
        self.run.save(
            STAGE,
            epoch + 1,
            {
                "epoch": history.epoch,
                "history": history.history,
                "stopped": bool(self.model.stop_training),
                "best": best and dataclasses.asdict(best),
            },
            arrays,
        )

    def _misfit(self, received):
        return ArtifactError(
            "A run goes on with checkpoints of its own epochs and weights. "
            f"Received: {received}, in the last one in '{self.run.path}'. "
            "Leave `resume` out to start anew."
        )

    def _variables(self):
        frozen = {id(weight) for weight in self.model.flat_source.weights}
        own = [w for w in self.model.weights if id(w) not in frozen]
        return {"model": own, "optimizer": self.model.optimizer.variables}


def by_name(groups: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
    """Names every item of groups by its group and its place in it."""
    return {
        f"{group}_{index:04d}": value
        for group, values in groups.items()
        for index, value in enumerate(values)
    }


class EpochSeed(keras.callbacks.Callback):
    """Seeds all that draws at the beginning of every epoch.

    So an epoch draws the same whether the epochs before it ran in this
    process or in one that was killed. Data sets that shuffle themselves keep
    count of their own: they begin anew with every process.

    Args:
        seed: Integer; what an epoch draws follows from it and its number.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        (drawn,) = np.random.SeedSequence([self.seed, epoch]).generate_state(1)
        keras.utils.set_random_seed(int(drawn))
