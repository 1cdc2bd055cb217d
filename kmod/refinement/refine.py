"""Refines the modules of a store: short training after they are cut."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.data.batches import fit_arguments
from kmod.data.batches import to_arrays
from kmod.data.chance import check_above_chance
from kmod.data.value_range import value_range_of
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import check_output
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.content import content_digest
from kmod.masks.front import fits_memory
from kmod.masks.losses import ModuleLoss
from kmod.masks.steps import count_steps
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.class_module import ClassModule
from kmod.refinement.joint_model import JointModel
from kmod.store.decompose import module_metrics
from kmod.store.module_store import ModuleStore
from kmod.store.module_store import list_store
from kmod.store.module_store import save_store
from kmod.training.calibration import fit_log_odds


def refine(
    store: ModuleStore,
    path: str | Path,
    source: keras.Model,
    train: Any,
    validation: Any,
    *,
    epochs: int = 4,
    batch_size: int = 64,
    learning_rate: float = 0.008,
    distillation: float = 3.0,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
    overwrite: bool = False,
) -> ModuleStore:
    """Trains all modules of a store together and saves them as a new store.

    Kernels that the modules kept change now, so that few of them do the work
    of many. Once modules are small, an epoch costs about one of the source
    model's. The stem that all modules share stays as it is, so compositions
    still build it once. It runs once for each image of an array, if what it
    makes takes at most 3 GiB. The epoch of best validation accuracy is kept,
    and scores are calibrated anew.

    Args:
        store: Store of all modules of one source model.
        path: Directory of the new store.
        source: The source model; it is the teacher.
        train: `(images, labels)` or batched data that Keras' `fit` takes,
            labels in the order of the store's classes.
        validation: `(images, labels)` or batched data, cut from training data.
        epochs: Integer, number of epochs.
        batch_size: Integer, images to a step, for arrays.
        learning_rate: Highest learning rate; it falls along a cosine.
        distillation: Weight of learning from the source model's own answers,
            beside the labels.
        seed: Integer, seed of shuffling.
        callbacks: Further Keras callbacks.
        verbose: Keras' progress bar: `"auto"`, 0, 1 or 2.
        overwrite: Whether a store at `path` may be replaced.

    Returns:
        The new `ModuleStore`. Its modules answer no longer as masked models
        do, so their `max_output_gap` is `None`.

    Raises:
        ArtifactError: If `source` is not the model that the modules were cut
            from, or is no better than chance on `validation`.
        UsageError: If a number is out of range, the store lacks modules,
            `validation` has not its value range, or `path` can not be written.

    Reference:

    - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """
    check_output(path, overwrite, list_store)
    _check_numbers(epochs, batch_size, learning_rate)
    _check_classes(store)
    teacher = _teacher(store, source)
    images, labels = to_arrays(validation)
    value_range_of(images, store.manifest.input.range)
    logits = teacher.predict(images, batch_size=batch_size, verbose=0)
    check_above_chance(logits.argmax(axis=1), labels)
    modules = [store[name] for name in store.class_names]
    keras.utils.set_random_seed(seed)
    joint = JointModel([m.model for m in modules], teacher, distillation)
    arguments = fit_arguments(train, batch_size)
    steps = epochs * count_steps(
        {"steps_per_epoch": None, "validation_split": 0, **arguments}
    )
    joint.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps, 0.05)
        ),
        loss=ModuleLoss(),
        metrics=["accuracy"],
    )
    shapes = [tensor.shape[1:] for tensor in joint.stem.outputs]
    if isinstance(train, tuple) and fits_memory(shapes, len(train[0])):
        arguments["x"], images = (
            joint.stem.predict(x, batch_size=batch_size, verbose=0)
            for x in (train[0], images)
        )
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=epochs, restore_best_weights=True
    )
    joint.fit(
        **arguments,
        epochs=epochs,
        validation_data=(images, labels),
        validation_batch_size=batch_size,
        callbacks=[*callbacks, best],
        verbose=verbose,
    )
    raw = joint.predict(images, batch_size=batch_size, verbose=0)
    refined = [
        _refined(joint, index, module, raw[:, index], labels == index)
        for index, module in enumerate(modules)
    ]
    settings = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "distillation": distillation,
        "seed": seed,
    }
    return save_store(
        path,
        refined,
        _manifest(store, settings, refined, raw, labels),
        overwrite,
    )


def _check_numbers(epochs, batch_size, learning_rate):
    if epochs < 1 or batch_size < 1 or learning_rate <= 0:
        raise UsageError(
            "`epochs` and `batch_size` must be at least 1 and `learning_rate` "
            f"above 0. Received: epochs={epochs}, batch_size={batch_size}, "
            f"learning_rate={learning_rate}"
        )


def _check_classes(store):
    if store.class_names != tuple(store.manifest.class_names):
        missing = sorted({*store.manifest.class_names} - {*store.class_names})
        raise UsageError(
            "A store is refined with the modules of all its source model's "
            f"classes. Received: '{store.path}' without {missing}. Decompose "
            "the source model again."
        )


def _teacher(store, source):
    teacher = rebuild(channel_graph(source))
    teacher.trainable = False
    digest = content_digest(teacher)
    if digest != store.manifest.source.digest:
        raise ArtifactError(
            "Modules are refined with the source model they were cut from, "
            f"{store.manifest.source.digest}. Received: {source.name!r} with "
            f"the digest {digest}. Give that source model."
        )
    return teacher


def _refined(joint, index, module, raw, is_class):
    model = joint.weights_of(index, module.model)
    scale, shift = fit_log_odds(raw, is_class)
    model.get_layer(CALIBRATION_LAYER).set_weights(
        [np.array([[scale]]), np.array([shift])]
    )
    info = dataclasses.replace(
        module.info,
        calibration={"scale": scale, "shift": shift},
        metrics=module_metrics(scale * raw + shift, is_class),
        max_output_gap=None,
    )
    return ClassModule(model, info)


def _manifest(store, settings, modules, raw, labels):
    old = store.manifest
    scale, shift = np.transpose(
        [
            [m.info.calibration["scale"], m.info.calibration["shift"]]
            for m in modules
        ]
    )
    accuracy = float(np.mean((raw * scale + shift).argmax(1) == labels))
    after = {**old.metrics.get("after", {}), "accuracy": accuracy}
    return dataclasses.replace(
        old,
        arguments={**old.arguments, "refinement": settings},
        metrics={**old.metrics, "after": after},
    )
