"""Runs CNNSplitter from a source model to a calibrated modular model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from kmod.data.batches import to_arrays
from kmod.errors import UsageError
from kmod.masks.modular_model import ModularModel
from kmod.masks.recipe import DEFAULT
from kmod.training.calibration import calibrate
from kmod.training.cnnsplitter.alignment import align_heads
from kmod.training.cnnsplitter.choice import KernelChoice
from kmod.training.cnnsplitter.evolution import check_pygad
from kmod.training.cnnsplitter.options import SearchOptions
from kmod.training.cnnsplitter.plots import check_matplotlib
from kmod.training.cnnsplitter.plots import save_figures
from kmod.training.cnnsplitter.recovery import recover
from kmod.training.run_directory import open_run

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
        seed: Integer, seed of all that is drawn.
        run_directory: Directory to keep every generation in. Defaults to
            none, so that a search that was cut short starts anew.
        resume: Whether to go on with the search in `run_directory`.
        figures: Directory for figures of importance, sensitivity and the
            search's progress; needs matplotlib. Defaults to none.
        verbose: Progress bars: `"auto"`, 0, 1 or 2.

    Returns:
        The calibrated `ModularModel` with its `kernel_masks`.

    Raises:
        UnsupportedModelError: If the source model can not be taken apart.
        UsageError: If arguments do not fit each other or the run to resume,
            or a package that a method needs is not installed.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116)
    """
    _check(method, like, run_directory, resume)
    if figures is not None:
        check_matplotlib()
    options = options or SearchOptions()
    keras.utils.set_random_seed(seed)
    modular = ModularModel(
        source, class_names, recipe=RECIPE, mask_from=mask_from, seed=seed
    )
    images, labels = to_arrays(validation)
    directory = None
    if run_directory is not None:
        facts = {
            "method": method,
            "options": options.as_dict(),
            "mask_from": mask_from,
            "seed": seed,
            "source_accuracy": _accuracy(modular.flat_source, images, labels),
        }
        directory = open_run(run_directory, facts, resume)
    choice = KernelChoice(modular, images, labels, options, directory)
    modular.kernel_masks = _masks(choice, method, like, verbose)
    if figures is not None:
        save_figures(Path(figures), choice.prepared, choice.history)
    align_heads(modular, images)
    modular.compile()
    if head_epochs:
        recover(
            modular,
            train,
            (images, labels),
            head_epochs,
            batch_size,
            verbose,
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


def _accuracy(model, images, labels):
    logits = model.predict(images, batch_size=256, verbose=0)
    return float(np.mean(logits.argmax(axis=1) == labels))
