"""Trains heads, scales and shifts while the masks stand still."""

from kmod.masks.modular_model import ModularModel
from kmod.training.callbacks.module_selection import ModuleSelection
from kmod.training.fit import fit_best_epoch
from kmod.training.run_directory import RunDirectory


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
