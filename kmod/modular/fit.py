"""Trains a modular model and takes the best epoch, from where a run stands."""

from collections.abc import Sequence

import keras

from kmod.data.batches import fit_arguments
from kmod.modular.callbacks.epoch_checkpoints import EpochCheckpoints
from kmod.modular.callbacks.epoch_checkpoints import EpochSeed
from kmod.modular.callbacks.module_selection import ModuleSelection
from kmod.modular.front import cache_front
from kmod.modular.front import fits_memory
from kmod.modular.modular_model import ModularModel
from kmod.modular.run_directory import RunDirectory


def fit_best_epoch(
    modular: ModularModel,
    train,
    validation,
    selection: ModuleSelection,
    *,
    epochs: int,
    batch_size: int,
    run: RunDirectory | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> None:
    """Trains all epochs that are left, and restores the best one.

    What no mask changes is computed once for each image of an array and kept,
    if there is room.

    Args:
        modular: Compiled modular model; its seed is that of every draw.
        train: `(images, labels)` or batched data.
        validation: `(images, labels)`.
        selection: What chooses the epoch.
        epochs: Integer, all epochs, those done before included.
        batch_size: Integer, images to a step, for arrays.
        run: Where to keep every epoch, and where earlier ones are. Defaults
            to none.
        callbacks: Further callbacks, called before the choice is made.
        verbose: Keras' progress bar.
    """
    arguments = fit_arguments(train, batch_size)
    images, labels = validation
    checkpoints, done = [], 0
    if run is not None:
        checkpoints = [EpochCheckpoints(run, selection)]
        done = checkpoints[0].initial_epoch(epochs)
    fits = isinstance(train, tuple) and fits_memory(
        modular.network.border_shapes, len(train[0])
    )
    if fits and done < epochs:
        arguments["x"] = cache_front(modular, train[0])
        images = cache_front(modular, images)
    modular.fit(
        **arguments,
        validation_data=(images, labels),
        validation_batch_size=batch_size,
        epochs=epochs,
        initial_epoch=done,
        callbacks=[
            EpochSeed(modular.seed),
            *callbacks,
            selection,
            keras.callbacks.History(),
            *checkpoints,
        ],
        verbose=verbose,
    )
