"""Trains a source model by a plain `fit`."""

from collections.abc import Sequence

import keras

from kmod.data.batches import fit_arguments
from kmod.data.image_data import ImageData
from kmod.data.streaming import build_ahead
from kmod.data.streaming import streamed
from kmod.zoo.augmented_images import AugmentedImages


def train_source(
    model: keras.Model,
    data: ImageData,
    epochs: int,
    *,
    batch_size: int = 64,
    seed: int = 0,
    learning_rate: float = 0.05,
    augment: bool = False,
    verbose: str | int = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.callbacks.History:
    """Compiles and fits a classifier and keeps its best epoch.

    Stochastic gradient descent with Nesterov momentum, weight decay and a
    learning rate that warms up and then falls along a cosine. The epoch with
    the best validation accuracy is restored at the end. Test images are not
    touched.

    Args:
        model: Classifier with probabilities as output. It is trained in
            place.
        data: Data set; its train and validation images are used.
        epochs: Integer, number of epochs.
        batch_size: Integer, images to a step.
        seed: Integer, seed of shuffling, dropout and augmentation. The first
            weights are the model's own.
        learning_rate: Highest learning rate.
        augment: Whether to mirror and move training images at random. Do not
            mirror digits or letters.
        verbose: Keras' progress bar: `"auto"`, 0, 1 or 2.
        callbacks: Further Keras callbacks.

    Returns:
        The Keras history of losses and accuracies.
    """
    keras.utils.set_random_seed(seed)
    steps = epochs * -(-len(data.train) // batch_size)
    model.compile(
        optimizer=_optimizer(learning_rate, steps),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    build_ahead(model, data.train.labels, len(data.class_names))
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=epochs, restore_best_weights=True
    )
    train = data.train.images, data.train.labels
    if augment:
        train = AugmentedImages(data.train, batch_size, seed)
    validation = data.validation.images, data.validation.labels
    given = fit_arguments(train, batch_size) | {"validation_data": validation}
    return model.fit(
        **streamed(given),
        epochs=epochs,
        verbose=verbose,
        callbacks=[*callbacks, best],
    )


def _optimizer(learning_rate, steps):
    warmup_steps = steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10,
        steps - warmup_steps,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )
    optimizer = keras.optimizers.SGD(
        schedule, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
