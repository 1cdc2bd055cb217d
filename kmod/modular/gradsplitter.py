"""GradSplitter: finds every class's kernels by gradient."""

from collections.abc import Sequence
from pathlib import Path

import keras

from kmod.data.batches import to_arrays
from kmod.data.value_range import value_range_of
from kmod.errors import UsageError
from kmod.metrics.chance import check_above_chance
from kmod.modular.calibration import calibrate
from kmod.modular.callbacks.module_selection import ModuleSelection
from kmod.modular.callbacks.phase_schedule import PhaseSchedule
from kmod.modular.fit import fit_best_epoch
from kmod.modular.modular_model import ModularModel
from kmod.modular.recipe import Recipe
from kmod.modular.run_directory import open_run
from kmod.modular.run_facts import run_facts

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
    value_range: tuple[float, float] | None = None,
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
        value_range: Smallest and largest pixel value that the source takes.
            Defaults to what is read off `validation`.
        seed: Integer, seed of shuffling and of drawn rows.
        run_directory: Directory of its own to keep every epoch in. Defaults
            to none, so that a run that was cut short starts anew.
        resume: Whether to go on with the run in `run_directory`, whose
            source, data and arguments must be these. It ends as if it had
            never been cut short, to the bit on a CPU, if `train` is arrays or
            gives the same batches in every epoch. If no run is there, a new
            one begins.
        callbacks: Further Keras callbacks. What they know themselves is not
            kept for a run that goes on.
        verbose: Keras' progress bar: `"auto"`, 0, 1 or 2.

    Returns:
        The trained and calibrated `ModularModel`.

    Raises:
        UnsupportedModelError: If the source model can not be taken apart.
        UsageError: If arguments do not fit each other or the run to resume,
            or `run_directory` holds other files than a run's.
        ArtifactError: If the source model is no better than chance on
            `validation`, or the run to resume can not be read.

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
    images, labels = to_arrays(validation)
    modular = ModularModel(
        source,
        class_names,
        recipe=recipe,
        mask_from=mask_from,
        seed=seed,
        value_range=value_range_of(images, value_range),
    )
    modular.compile()
    # All modules, unmasked and linear, rank images as the source model does.
    logits = modular.flat_source.predict(images, batch_size=256, verbose=0)
    source_accuracy = check_above_chance(logits.argmax(axis=1), labels)
    epochs = epochs or modular.recipe.epochs or DEFAULT_EPOCHS
    run = None
    if run_directory is not None:
        facts = run_facts(
            modular,
            train,
            (images, labels),
            method="gradsplitter",
            recipe=modular.recipe.as_dict(),
            mask_from=mask_from,
            value_range=modular.value_range,
            epochs=epochs,
            batch_size=batch_size,
            accuracy_budget=accuracy_budget,
            round_to=round_to,
            seed=seed,
        )
        run = open_run(run_directory, facts, resume)
    schedule = [PhaseSchedule()] if modular.recipe.phases else []
    fit_best_epoch(
        modular,
        train,
        (images, labels),
        ModuleSelection(source_accuracy, accuracy_budget),
        epochs=epochs,
        batch_size=batch_size,
        run=run,
        callbacks=[*schedule, *callbacks],
        verbose=verbose,
    )
    modular.masks.round_to(round_to, modular.kernels)
    calibrate(modular, images, labels)
    return modular
