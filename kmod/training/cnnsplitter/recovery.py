"""Trains heads, scales and shifts while the masks stand still."""

from kmod.data.batches import fit_arguments
from kmod.masks.front import cache_front
from kmod.masks.front import fits_memory
from kmod.masks.modular_model import ModularModel
from kmod.training.callbacks.module_selection import ModuleSelection


def recover(
    modular: ModularModel,
    train,
    validation,
    epochs: int,
    batch_size: int = 64,
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
        verbose: Keras' progress bar.
    """
    arguments = fit_arguments(train, batch_size)
    images, labels = validation
    shapes = modular.network.border_shapes
    if isinstance(train, tuple) and fits_memory(shapes, len(train[0])):
        arguments["x"] = cache_front(modular, train[0])
        images = cache_front(modular, images)
    modular.masks.frozen = True
    try:
        modular.fit(
            **arguments,
            validation_data=(images, labels),
            validation_batch_size=batch_size,
            epochs=epochs,
            callbacks=[ModuleSelection(source_accuracy=1.0)],
            verbose=verbose,
        )
    finally:
        modular.masks.frozen = False
        modular.make_train_function(force=True)
