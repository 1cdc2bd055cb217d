"""GradSplitter: finds every class's kernels by gradient."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from kmod.data.batches import fit_arguments
from kmod.data.batches import to_arrays
from kmod.errors import UsageError
from kmod.masks.front import cache_front
from kmod.masks.front import fits_memory
from kmod.masks.modular_model import ModularModel
from kmod.masks.recipe import Recipe
from kmod.training.calibration import calibrate
from kmod.training.callbacks.module_selection import ModuleSelection
from kmod.training.callbacks.phase_schedule import PhaseSchedule
from kmod.training.run_directory import open_run

DEFAULT_EPOCHS = 10


def modularize(
    source: keras.Model,
    train,
    validation,
    *,
    class_names: Sequence[str] | None = None,
    recipe: str | Recipe = "default",
    mask_from: str | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    accuracy_budget: float = 0.01,
    round_to: int = 1,
    seed: int = 0,
    run_directory: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> ModularModel:
    """Trains the masks of a source model and chooses the best epoch.

    The choice is made on validation data: fewest kernels among the epochs
    that lose at most `accuracy_budget`. Scores are then calibrated on the
    same data.

    What no mask changes is computed once for each image of an array and kept,
    if it takes at most 3 GiB. So a late `mask_from` makes steps cheap.

    Args:
        source: Trained Functional or Sequential classifier.
        train: `(images, labels)`, labels integer class indices, or batched
            data that Keras' `fit` takes.
        validation: `(images, labels)` or batched data, cut from training data.
        class_names: Names of the classes. Defaults to `"0"`, `"1"`, ...
        recipe: `"default"`, `"paper"` or a `Recipe`.
        mask_from: First layer whose kernels may go; see `ModularModel`.
        epochs: Integer. Defaults to the recipe's phases, or 10.
        batch_size: Integer, images to a step, for arrays.
        accuracy_budget: Accuracy that modules may lose on validation data.
        round_to: Integer; after the choice, each layer's number of kept
            kernels is rounded up to a multiple of it.
        seed: Integer, seed of shuffling and of drawn rows.
        run_directory: Directory to keep a backup of every epoch in. Defaults
            to none, so that a run that was cut short starts anew.
        resume: Whether to go on with the run in `run_directory`.
        callbacks: Further Keras callbacks.
        verbose: Keras' progress bar: `"auto"`, 0, 1 or 2.

    Returns:
        The trained and calibrated `ModularModel`.

    Raises:
        UnsupportedModelError: If the source model can not be taken apart.
        UsageError: If arguments do not fit each other or the run to resume.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438)
    """
    if resume and run_directory is None:
        raise UsageError(
            "`resume` needs the `run_directory` of the run to go on with. "
            "Received: run_directory=None"
        )
    if round_to < 1:
        raise UsageError(
            f"`round_to` must be at least 1. Received: round_to={round_to}"
        )
    keras.utils.set_random_seed(seed)
    modular = ModularModel(
        source, class_names, recipe=recipe, mask_from=mask_from, seed=seed
    )
    modular.compile()
    images, labels = to_arrays(validation)
    # All modules, unmasked and linear, rank images as the source model does.
    source_accuracy = _accuracy(modular.flat_source, images, labels)
    epochs = epochs or modular.recipe.epochs or DEFAULT_EPOCHS
    own_callbacks = []
    if modular.recipe.phases:
        own_callbacks.append(PhaseSchedule())
    directory = None
    if run_directory is not None:
        facts = {
            "recipe": modular.recipe.as_dict(),
            "mask_from": mask_from,
            "epochs": epochs,
            "batch_size": batch_size,
            "accuracy_budget": accuracy_budget,
            "round_to": round_to,
            "seed": seed,
            "source_accuracy": source_accuracy,
        }
        directory = open_run(run_directory, facts, resume)
        own_callbacks.append(
            keras.callbacks.BackupAndRestore(directory / "backup")
        )
    selection = ModuleSelection(source_accuracy, accuracy_budget, directory)
    arguments = fit_arguments(train, batch_size)
    shapes = modular.network.border_shapes
    if isinstance(train, tuple) and fits_memory(shapes, len(train[0])):
        arguments["x"] = cache_front(modular, train[0])
        images = cache_front(modular, images)
    modular.fit(
        **arguments,
        validation_data=(images, labels),
        validation_batch_size=batch_size,
        epochs=epochs,
        callbacks=[*own_callbacks, *callbacks, selection],
        verbose=verbose,
    )
    modular.masks.round_to(round_to, modular.kernels)
    calibrate(modular, images, labels)
    return modular


def _accuracy(model, images, labels):
    logits = model.predict(images, batch_size=256, verbose=0)
    return float(np.mean(logits.argmax(axis=1) == labels))
