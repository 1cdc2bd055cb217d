"""Runs CNNSplitter from a source model to a calibrated modular model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from kmod.data.batches import to_arrays
from kmod.data.value_range import value_range_of
from kmod.errors import UsageError
from kmod.files import data_digest
from kmod.metrics.chance import check_above_chance
from kmod.modular.calibration import calibrate
from kmod.modular.callbacks.module_selection import ModuleSelection
from kmod.modular.cnnsplitter.alignment import align_heads
from kmod.modular.cnnsplitter.choice import KernelChoice
from kmod.modular.cnnsplitter.evolution import check_pygad
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.cnnsplitter.plots import check_figures
from kmod.modular.cnnsplitter.plots import save_figures
from kmod.modular.fit import fit_best_epoch
from kmod.modular.modular_model import ModularModel
from kmod.modular.recipe import DEFAULT
from kmod.modular.run_directory import RunDirectory
from kmod.modular.run_directory import open_run
from kmod.modular.run_facts import array_digest
from kmod.modular.run_facts import run_facts

METHODS = ("cnnsplitter", "importance", "random")
RECIPE = dataclasses.replace(
    DEFAULT, name="search", retention_target=None, penalty=0.0
)


def modularize_by_search(
    source: keras.Model,
    train,
    validation,
    *,
    method: str = "cnnsplitter",
    options: SearchOptions | None = None,
    like: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    mask_from: str | None = None,
    head_epochs: int = 2,
    batch_size: int = 64,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    run_directory: str | Path | None = None,
    resume: bool = False,
    figures: str | Path | None = None,
    verbose: str | int = "auto",
) -> ModularModel:
    """Chooses the kernels of every class without a gradient.

    Measures how important kernels are to each class and how sensitive layers
    are, then searches; the two controls choose the most important kernels or
    random ones instead. Heads, scales and shifts may then be trained for a
    few epochs, and scores are calibrated on validation data.

    Args:
        source: Trained Functional or Sequential classifier.
        train: `(images, labels)`, labels integer class indices, or batched
            data that Keras' `fit` takes; read only if `head_epochs` is not 0.
        validation: `(images, labels)` or batched data, cut from training data.
        method: `"cnnsplitter"`, `"importance"` or `"random"`.
        options: How to search. Defaults to `SearchOptions()`.
        like: Kernel masks `(num_classes, num_kernels)`: a control keeps as
            many kernels of each layer and class. Defaults to what the search
            would begin with.
        class_names: Names of the classes. Defaults to `"0"`, `"1"`, ...
        mask_from: First layer whose kernels may go; see `ModularModel`.
        head_epochs: Integer, epochs with masks that stand still, 0 for none.
        batch_size: Integer, images to a step in those, for arrays.
        value_range: Smallest and largest pixel value that the source takes.
            Defaults to what is read off `validation`.
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

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116)
    """
    _check(method, like, run_directory, resume)
    options = options or SearchOptions()
    keras.utils.set_random_seed(seed)
    images, labels = to_arrays(validation)
    modular = ModularModel(
        source,
        class_names,
        recipe=RECIPE,
        mask_from=mask_from,
        seed=seed,
        value_range=value_range_of(images, value_range),
    )
    logits = modular.flat_source.predict(images, batch_size=256, verbose=0)
    check_above_chance(logits.argmax(axis=1), labels)
    facts = run_facts(
        modular,
        train if head_epochs else None,
        (images, labels),
        packages=("pygad",) if method == "cnnsplitter" else (),
        method=method,
        options=options.as_dict(),
        like=None if like is None else array_digest(like),
        mask_from=mask_from,
        value_range=modular.value_range,
        head_epochs=head_epochs,
        batch_size=batch_size,
        seed=seed,
    )
    mark = data_digest(facts)
    if figures is not None:
        check_figures(Path(figures), mark)
    run = None
    if run_directory is not None:
        run = open_run(run_directory, facts, resume)
    choice = KernelChoice(modular, images, labels, options, run)
    modular.kernel_masks = _masks(choice, method, like, verbose)
    if figures is not None:
        save_figures(Path(figures), choice.prepared, choice.history, mark)
    align_heads(modular, images)
    modular.compile()
    if head_epochs:
        recover(
            modular,
            train,
            (images, labels),
            head_epochs,
            batch_size=batch_size,
            run=run,
            verbose=verbose,
        )
    calibrate(modular, images, labels)
    return modular


def _masks(choice, method, like, verbose):
    if method == "importance":
        return choice.by_importance(like)
    if method == "random":
        return choice.by_chance(like)
    return choice.by_search(1 if verbose == "auto" else verbose)


def _check(method, like, run_directory, resume):
    if method not in METHODS:
        raise UsageError(
            f"`method` must be one of {METHODS}. Received: method={method!r}"
        )
    if method == "cnnsplitter":
        check_pygad()
        if like is not None:
            raise UsageError(
                "`like` belongs to the methods 'importance' and 'random'. "
                "Received: method='cnnsplitter'. Leave it out."
            )
    if resume and run_directory is None:
        raise UsageError(
            "`resume` needs the `run_directory` of the run to go on with. "
            "Received: run_directory=None"
        )


def recover(
    modular: ModularModel,
    train,
    validation,
    epochs: int,
    *,
    batch_size: int = 64,
    run: RunDirectory | None = None,
    verbose: str | int = "auto",
) -> None:
    """Lets modules make up for removed kernels without changing the choice.

    The source model is the teacher, as in GradSplitter's default recipe. The
    epoch with the best validation accuracy is kept.

    Args:
        modular: Compiled modular model with its masks set.
        train: `(images, labels)` or batched data.
        validation: `(images, labels)`.
        epochs: Integer, at least 1.
        batch_size: Integer, images to a step, for arrays.
        run: Run that keeps every epoch. Defaults to none.
        verbose: Keras' progress bar.
    """
    modular.masks.frozen = True
    try:
        fit_best_epoch(
            modular,
            train,
            validation,
            ModuleSelection(source_accuracy=1.0),
            epochs=epochs,
            batch_size=batch_size,
            run=run,
            verbose=verbose,
        )
    finally:
        modular.masks.frozen = False
        modular.make_train_function(force=True)
