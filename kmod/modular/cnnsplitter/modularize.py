"""Runs CNNSplitter from a source model to a calibrated modular model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.callbacks import BestModules
from kmod.data.batches import check_training
from kmod.data.batches import common_class_names
from kmod.data.batches import fit_arguments
from kmod.data.image_data import UnlabelledImages
from kmod.errors import UsageError
from kmod.files import data_digest
from kmod.files.run_directory import RunDirectory
from kmod.files.run_directory import open_run
from kmod.modular.cnnsplitter.evaluator import align_heads
from kmod.modular.cnnsplitter.genetic_search import GeneticSearch
from kmod.modular.cnnsplitter.options import HEAD_EPOCHS
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.cnnsplitter.plots import check_figures
from kmod.modular.cnnsplitter.plots import save_figures
from kmod.modular.cnnsplitter.population import import_pygad
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import fit_run
from kmod.modular.modularize import start_modular
from kmod.modular.negatives import check_negatives
from kmod.modular.recipe import DEFAULT
from kmod.modular.run_identity import run_identity

RECIPE = dataclasses.replace(
    DEFAULT, name="search", retention_target=None, penalty=0.0
)


def modularize_by_search(
    source: keras.Model,
    train,
    validation,
    *,
    negatives: Any = None,
    options: SearchOptions | None = None,
    class_names: Sequence[str] | None = None,
    mask_from: str | None = None,
    head_epochs: int = HEAD_EPOCHS,
    batch_size: int = 64,
    steps_per_epoch: int | None = None,
    value_range: tuple[float, float] | None = None,
    output: str | None = None,
    seed: int = 0,
    run_directory: str | Path | None = None,
    resume: bool = False,
    figures: str | Path | None = None,
    verbose: str | int = "auto",
) -> ModularModel:
    """Chooses the kernels of every class without a gradient.

    Measures how important kernels are to each class and how sensitive layers
    are, then searches. Heads, scales and shifts may then be trained for a few
    epochs, and scores are calibrated on validation data.

    Args:
        source: Trained Functional or Sequential classifier.
        train: `(images, labels)`, labels class indices or one-hot, with
            sample weights as a third item if there are any; or batched data
            that Keras' `fit` takes. Read only if `head_epochs` is not 0.
        validation: `(images, labels)` or batched data, cut from training data.
        negatives: Images of anything but the classes that heads, scales and
            shifts learn to answer no on; see `ModularModel.fit`. The search
            does not look at them. Defaults to none.
        options: How to search. Defaults to `SearchOptions()`.
        class_names: Names of the classes. Defaults to those that data sets
            have, and else to `"0"`, `"1"`, ...
        mask_from: First layer whose kernels may go; see `ModularModel`.
        head_epochs: Integer, epochs with masks that stand still, 0 for none.
        batch_size: Integer, images to a step in those, for arrays.
        steps_per_epoch: Integer, batches to an epoch; an endless data set
            needs it. Defaults to all there are.
        value_range: Smallest and largest pixel value that the source takes.
            Defaults to what is read off `validation`.
        output: Name of the source's output to take, of several.
        seed: Integer, seed of all that is drawn.
        run_directory: Directory of its own to keep every generation and
            epoch in. Defaults to none, so that a run that was cut short
            starts anew.
        resume: Whether to go on with the run in `run_directory`, whose
            source, data and arguments must be these. It ends as if it had
            never been cut short, to the bit on a CPU, if `train` is arrays or
            gives the same batches in every epoch. If no run is there, a new
            one begins.
        figures: Directory for figures of importance, sensitivity and the
            search's progress; needs matplotlib. Only figures of the same
            source, data and arguments are replaced. Defaults to none.
        verbose: Progress bars: `"auto"`, 0, 1 or 2.

    Returns:
        The calibrated `ModularModel` with its `kernel_masks`.

    Raises:
        UnsupportedModelError: If the source model can not be taken apart.
        UsageError: If arguments do not fit each other or the run to resume,
            `run_directory` or `figures` holds files that would be lost, or a
            package that is needed is not installed.
        ArtifactError: If the source model is no better than chance on
            `validation`, or the run to resume can not be read.
        ValueError: If labels are not of the source model's classes.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116)
    """
    import_pygad()
    if negatives is not None and not head_epochs:
        raise UsageError(
            "`negatives` are learned from while heads train, so `head_epochs` "
            "must be at least 1. Received: head_epochs=0. Leave one of them "
            "out."
        )
    options = options or SearchOptions()
    modular, images, labels, _ = start_modular(
        source,
        validation,
        class_names=common_class_names(class_names, train, validation),
        recipe=RECIPE,
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
    identity = run_identity(
        modular,
        train if head_epochs else None,
        (images, labels),
        negatives,
        packages=("pygad",),
        steps_per_epoch=steps_per_epoch,
        method="cnnsplitter",
        options=options.as_dict(),
        mask_from=mask_from,
        value_range=modular.value_range,
        head_epochs=head_epochs,
        batch_size=batch_size,
        seed=seed,
    )
    if head_epochs:
        check_training(
            fit_arguments(train, batch_size, steps_per_epoch),
            modular.num_classes,
            modular.flat_source.input_shape[1:],
            modular.value_range,
        )
    digest = data_digest(identity)
    if figures is not None:
        check_figures(Path(figures), digest)
    run = None
    if run_directory is not None:
        run = open_run(run_directory, identity, resume)
    search = GeneticSearch(modular, images, labels, options, run)
    state = search.run(1 if verbose == "auto" else verbose)
    masks = search.masks(state.chosen)
    modular.kernel_masks = masks[:, modular.kernels.groups]
    if figures is not None:
        save_figures(Path(figures), search, state.history, digest)
    align_heads(modular, images)
    modular.compile()
    if head_epochs:
        recover(
            modular,
            train,
            (images, labels),
            head_epochs,
            negatives=negatives,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            run=run,
            verbose=verbose,
        )
    modular.calibrate(images, labels)
    return modular


def recover(
    modular: ModularModel,
    train,
    validation,
    epochs: int,
    *,
    negatives: UnlabelledImages | None = None,
    batch_size: int = 64,
    steps_per_epoch: int | None = None,
    run: RunDirectory | None = None,
    verbose: str | int = "auto",
) -> None:
    """Lets modules make up for removed kernels without changing masks.

    The source model is the teacher, as in GradSplitter's default recipe. The
    epoch with the best validation accuracy is kept; see `fit_run`.
    """
    modular.masks.frozen = True
    try:
        fit_run(
            modular,
            train,
            validation,
            BestModules(source_accuracy=1.0),
            negatives=negatives,
            epochs=epochs,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            run=run,
            verbose=verbose,
        )
    finally:
        modular.masks.frozen = False
        modular.make_train_function(force=True)
