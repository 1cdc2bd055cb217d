"""GradSplitter, from a source model to a calibrated modular model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.callbacks import BestModules
from kmod.callbacks.epoch_checkpoints import STAGE
from kmod.callbacks.epoch_checkpoints import EpochCheckpoints
from kmod.callbacks.epoch_checkpoints import EpochSeed
from kmod.data.batches import class_indices
from kmod.data.batches import common_class_names
from kmod.data.batches import fit_arguments
from kmod.data.batches import to_arrays
from kmod.data.image_data import UnlabelledImages
from kmod.data.streaming import predict
from kmod.data.value_range import value_range_of
from kmod.errors import KmodError
from kmod.errors import UsageError
from kmod.files.run_directory import RunDirectory
from kmod.files.run_directory import check_resume
from kmod.files.run_directory import discard_run
from kmod.files.run_directory import open_run
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sources import custom_layers_of
from kmod.graph.sources import registered_name
from kmod.metrics.chance import answered_classes
from kmod.metrics.chance import check_above_chance
from kmod.metrics.evaluate import warn_of_rare_classes
from kmod.modular.macs import mask_starts
from kmod.modular.macs import propose_start
from kmod.modular.modular_model import ModularModel
from kmod.modular.negatives import check_negatives
from kmod.modular.recipe import BUDGETS
from kmod.modular.recipe import DEFAULT_EPOCHS
from kmod.modular.recipe import Recipe
from kmod.modular.run_identity import run_identity


def modularize(
    source: keras.Model,
    train,
    validation,
    *,
    negatives: Any = None,
    class_names: Sequence[str] | None = None,
    recipe: str | Recipe = "default",
    purpose: str = "together",
    retention_target: float | None = None,
    macs_target: float | None = None,
    mask_from: str | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    steps_per_epoch: int | None = None,
    accuracy_budget: float | None = None,
    round_to: int = 1,
    value_range: tuple[float, float] | None = None,
    output: str | None = None,
    seed: int = 0,
    run_directory: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> ModularModel:
    """Trains the masks of a source model and chooses the best epoch.

    The choice is made on validation data: fewest kernels among the epochs
    that lose at most `accuracy_budget`. Scores are then calibrated on the
    same data. See `ModularModel` for how to do the same step by step.

    Args:
        source: Trained Functional or Sequential classifier.
        train: `(images, labels)`, labels class indices or one-hot, with
            sample weights as a third item if there are any; or batched data
            that Keras' `fit` takes.
        validation: `(images, labels)` or batched data, cut from training data.
        negatives: Images of anything but the classes that modules learn to
            answer no on; see `ModularModel.fit`. Defaults to none.
        class_names: Names of the classes. Defaults to those that data sets
            have, such as of `keras.utils.image_dataset_from_directory`, and
            else to `"0"`, `"1"`, ...
        recipe: `"default"`, `"paper"` or a `Recipe`.
        purpose: What the modules are for; other recipes than `"default"` say
            it themselves. `"together"`: all of them shall cost no more than
            the source model. Masks begin behind about half of its
            multiply-accumulates, and `macs_target` is 1. `"alone"`: each
            shall be small by itself. Masks begin at the first layer.
        retention_target: Retention rate to come down to; see `ModularModel`.
        macs_target: What all modules may cost; see `ModularModel`.
        mask_from: First layer whose kernels may go; see `ModularModel`. These
            three default to what suits `purpose`.
        epochs: Integer. Defaults to the recipe's phases, or 10.
        batch_size: Integer, images to a step, for arrays.
        steps_per_epoch: Integer, batches to an epoch; an endless data set
            needs it. Defaults to all there are.
        accuracy_budget: Accuracy that modules may lose on validation data.
            Defaults to 0.2 for modules to use together, which `refine` makes
            as good as before, and to 0.01 for others.
        round_to: Integer; after the choice, each layer's number of kept
            kernels is rounded up to a multiple of it.
        value_range: Smallest and largest pixel value that the source takes.
            Defaults to what is read off `validation`.
        output: Name of the source's output to take, of several.
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
        ValueError: If labels are not of the source model's classes.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438)
    """
    if round_to < 1:
        raise UsageError(
            f"`round_to` must be at least 1. Received: round_to={round_to}"
        )
    if purpose not in BUDGETS:
        raise UsageError(
            f"`purpose` must be one of {list(BUDGETS)}. Received: "
            f"purpose={purpose!r}"
        )
    if recipe != "default":
        purpose = "alone"
    if accuracy_budget is None:
        accuracy_budget = BUDGETS[purpose]
    modular, images, labels, source_accuracy = start_modular(
        source,
        validation,
        are_for_all=purpose == "together",
        class_names=common_class_names(class_names, train, validation),
        recipe=recipe,
        retention_target=retention_target,
        macs_target=macs_target,
        mask_from=mask_from,
        seed=seed,
        value_range=value_range,
        output=output,
        run_directory=run_directory,
        resume=resume,
    )
    if negatives is not None:
        negatives = check_negatives(
            negatives, images.shape[1:], modular.value_range
        )
    modular.compile()
    epochs = epochs or modular.recipe.epochs or DEFAULT_EPOCHS
    run = None
    if run_directory is not None:
        identity = run_identity(
            modular,
            train,
            (images, labels),
            negatives,
            method="gradsplitter",
            recipe=modular.recipe.as_dict(),
            mask_from=modular.mask_from,
            value_range=modular.value_range,
            epochs=epochs,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            accuracy_budget=accuracy_budget,
            round_to=round_to,
            seed=seed,
        )
        run = open_run(run_directory, identity, resume)
    try:
        fit_run(
            modular,
            train,
            (images, labels),
            BestModules(accuracy_budget, source_accuracy),
            negatives=negatives,
            epochs=epochs,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            run=run,
            callbacks=callbacks,
            verbose=verbose,
        )
    except (KmodError, TypeError, ValueError):
        if run is not None and run.latest(STAGE) is None:
            discard_run(run_directory)  # The data were refused.
        raise
    modular.masks.round_to(round_to, modular.kernels)
    modular.calibrate(images, labels)
    return modular


def start_modular(
    source: keras.Model,
    validation: Any,
    *,
    value_range: tuple[float, float] | None,
    run_directory: str | Path | None,
    resume: bool,
    are_for_all: bool = False,
    **arguments,
) -> tuple[ModularModel, np.ndarray, np.ndarray, float]:
    """Makes the modular model of a source that is better than chance.

    Takes the arguments of `modularize`; `arguments` are the modular model's.
    With `are_for_all`, targets that are not given become those of modules
    that cost no more than the source model together.

    Returns:
        Tuple of the `ModularModel`, the validation images `(n, ...)`, their
        class indices `(n,)` and the source model's accuracy on them, 0 to 1.

    Raises:
        UsageError, UnsupportedModelError, ArtifactError, ValueError: As
            `modularize`.
    """
    check_resume(resume, run_directory)
    keras.utils.set_random_seed(arguments["seed"])
    images, labels = to_arrays(validation)
    value_range = value_range_of(images, value_range)
    if are_for_all:
        arguments |= _targets_together(source, images.shape[1:], **arguments)
    modular = ModularModel(
        source,
        value_range=value_range,
        input_shape=images.shape[1:],
        **arguments,
    )
    class_indices(labels, modular.num_classes)
    warn_of_rare_classes(labels, modular.class_names)
    for kind in custom_layers_of(modular.flat_source):
        registered_name(kind)  # Or else the modules could not be saved.
    # All modules, unmasked and linear, rank images as the source model does.
    logits = predict(modular.flat_source, images)
    accuracy = check_above_chance(answered_classes(logits), labels)
    return modular, images, labels, accuracy


def _targets_together(
    source,
    input_shape,
    *,
    output,
    mask_from,
    retention_target,
    macs_target,
    **others,
):
    """Fills in the targets that are not given."""
    graph = channel_graph(source, output, input_shape)
    starts = mask_starts(graph, rebuild(graph))
    if mask_from is None and starts:
        start = propose_start(starts)
        mask_from = start.layer
        retention_target = retention_target or start.retention_target
    return {
        "mask_from": mask_from,
        "retention_target": retention_target,
        "macs_target": macs_target or 1.0,
    }


def fit_run(
    modular: ModularModel,
    train: Any,
    validation: tuple[np.ndarray, np.ndarray],
    best_modules: BestModules,
    *,
    negatives: UnlabelledImages | None = None,
    epochs: int,
    batch_size: int,
    steps_per_epoch: int | None = None,
    run: RunDirectory | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> None:
    """Trains all epochs of a run that are left, and restores the best one.

    Args:
        modular: Compiled modular model; its seed is that of every draw.
        train: `(images, labels)` or batched data.
        validation: `(images, labels)`.
        best_modules: What chooses the epoch.
        negatives: Images that modules learn to answer no on. Defaults to none.
        epochs: Integer, all epochs, those done before included.
        batch_size: Integer, images to a step, for arrays.
        steps_per_epoch: Integer, batches to an epoch. Defaults to all.
        run: Where to keep every epoch, and where earlier ones are. Defaults
            to none.
        callbacks: Further callbacks, called before the choice is made.
        verbose: Keras' progress bar.
    """
    checkpoints, done = [], 0
    if run is not None:
        checkpoints = [EpochCheckpoints(run, best_modules)]
        done = checkpoints[0].initial_epoch(epochs)
    modular.fit(
        **fit_arguments(train, batch_size, steps_per_epoch),
        negatives=negatives,
        validation_data=validation,
        validation_batch_size=batch_size,
        epochs=epochs,
        initial_epoch=done,
        callbacks=[
            EpochSeed(modular.seed),
            *callbacks,
            best_modules,
            keras.callbacks.History(),
            *checkpoints,
        ],
        verbose=verbose,
    )
