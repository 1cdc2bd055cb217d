"""Refines the modules of a store: short training after they are cut."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.data.batches import check_training
from kmod.data.batches import count_steps
from kmod.data.batches import fit_arguments
from kmod.data.batches import to_arrays
from kmod.data.streaming import build_ahead
from kmod.data.streaming import predict
from kmod.data.streaming import streamed
from kmod.data.value_range import value_range_of
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import check_output
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph import set_state
from kmod.graph.content import content_digest
from kmod.graph.internals import calls_of
from kmod.graph.internals import made_by
from kmod.graph.sharing import SHARED
from kmod.graph.sharing import merge_models
from kmod.metrics.calibration import fit_platt
from kmod.metrics.chance import answered_classes
from kmod.metrics.chance import check_above_chance
from kmod.metrics.evaluate import warn_of_rare_classes
from kmod.modular.losses import ModuleLoss
from kmod.modular.losses import distillation_loss
from kmod.modular.negatives import IMAGES
from kmod.modular.negatives import NEGATIVES
from kmod.modular.negatives import check_negatives
from kmod.modular.negatives import negatives_record
from kmod.modular.negatives import rejection_loss
from kmod.modular.negatives import with_negatives
from kmod.modular.optimizer import adam
from kmod.modular.stem import TEACHER
from kmod.modular.stem import cache_stem
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.class_module import ClassModule
from kmod.modules.contract import path_from
from kmod.modules.decompose import module_metrics
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import StoreContent
from kmod.modules.module_store import list_store
from kmod.modules.module_store import save_store


class JointModel(keras.Model):
    """Trains modules together, with their source model as teacher.

    What the modules have in common, their stem, runs once and stays as it is;
    every other layer trains. So `stem` can be run ahead of the training, and
    the model takes what it made in place of images. Besides the loss that it
    is compiled with, the model learns the source model's own answers.

    Args:
        modules: Modules of one source model, images to `(batch, 1)`. They are
            copied, never changed.
        teacher: The source model up to its logits, frozen.
        distillation: Float, weight of learning from the teacher.
        frozen: Names of further layers of the modules that stay as they are,
            the statistics of BatchNormalization included.
        **kwargs: Base model keyword arguments, such as `name`.

    Attributes:
        stem: Model from images to a dict: as `teacher` the source model's
            logits, and what the branches read.

    Output shape:
        `(batch, num_modules)`: raw scores before calibration.
    """

    def __init__(self, modules, teacher, distillation, frozen=(), **kwargs):
        # Else a global policy would round images and the teacher's logits.
        super().__init__(dtype="float32", **kwargs)
        self.distillation = distillation
        self.teacher = teacher
        self.owners = [f"module{index}" for index in range(len(modules))]
        image, outputs = merge_models(
            zip(self.owners, map(raw_score_model, modules), strict=True)
        )
        scores = keras.layers.Concatenate(name="scores", dtype="float32")
        self.network = keras.Model(image, scores(list(outputs.values())))
        read = _stem_outputs(self.network)
        self.stem = keras.Model(image, {TEACHER: teacher(image), **read})
        self._read = tuple(read)
        self.branches = keras.Model(list(read.values()), self.network.output)
        stay = {
            _name_in(owner, name) for owner in self.owners for name in frozen
        }
        for layer in self.network.layers:
            layer.trainable = not _is_stem(layer) and layer.name not in stay

    def call(self, inputs, training=False):
        negatives = None
        if isinstance(inputs, dict) and NEGATIVES in inputs:
            inputs, negatives = inputs[IMAGES], inputs[NEGATIVES]
        inputs = self._behind_stem(inputs)
        scores = self._branch_scores(inputs, training)
        if training and negatives is not None:
            # Statistics of BatchNormalization remain those of own images.
            found = self._branch_scores(self._behind_stem(negatives), False)
            self.add_loss(rejection_loss(found, len(self.owners)))
        if training and self.distillation:
            self.add_loss(
                self.distillation
                * distillation_loss(scores, inputs[TEACHER], None, 1.0)
            )
        return scores

    def _behind_stem(self, inputs):
        if isinstance(inputs, dict):
            return inputs
        return self.stem(inputs, training=False)

    def _branch_scores(self, made, training):
        values = [made[name] for name in self._read]
        return self.branches(values, training=training)

    def weights_of(self, index: int, module: keras.Model) -> keras.Model:
        """Returns a copy of a module with the weights it has learned.

        Args:
            index: Index of the module.
            module: The module as it was given.
        """
        copy = keras.models.clone_model(module)
        set_state(copy, module.get_weights())
        known = {layer.name: layer for layer in self.network.layers}
        for layer in copy.layers:
            name = _name_in(self.owners[index], layer.name)
            if name in known:
                set_state(layer, known[name].get_weights())
        return copy


def _name_in(owner, name):
    """Returns what a layer of a module is called among all of them."""
    return f"{owner}_{name.replace('/', '_')}"


def _stem_outputs(network):
    """Names the tensors of the stem that the branches read."""
    found = {}
    for operation in network.operations:
        if _is_stem(operation):
            continue
        for node in calls_of(operation):
            for tensor in node.input_tensors:
                if _is_stem(made_by(tensor)):
                    found[id(tensor)] = tensor
    return {f"tensor_{i}": tensor for i, tensor in enumerate(found.values())}


def _is_stem(operation):
    is_image = isinstance(operation, keras.layers.InputLayer)
    return is_image or operation.name.startswith(f"{SHARED}_")


def raw_score_model(module: keras.Model) -> keras.Model:
    """Returns the part of a module in front of its calibration."""
    return keras.Model(module.inputs, module.get_layer(CALIBRATION_LAYER).input)


def refine(
    store: ModuleStore,
    path: str | Path,
    source: keras.Model,
    train: Any,
    validation: Any,
    *,
    negatives: Any = None,
    epochs: int = 4,
    batch_size: int = 64,
    steps_per_epoch: int | None = None,
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
    makes takes at most 3 GiB, on disk if it is large. The epoch of best
    validation accuracy is kept, and scores are calibrated anew.

    Args:
        store: Store of all modules of one source model.
        path: Directory of the new store.
        source: The source model; it is the teacher. Layers that are frozen
            in it (`trainable` is `False`) stay as they are in every module.
        train: `(images, labels)`, with sample weights as a third item if
            there are any, or batched data that Keras' `fit` takes. Labels are
            class indices in the order of the store's classes, or one-hot.
        validation: `(images, labels)` or batched data, cut from training data.
        negatives: Images of anything but the classes, without labels, that
            modules learn to answer no on: an array, labelled images whose
            labels do not matter, or batched data, of the shape and range of
            values that the source takes. Defaults to none.
        epochs: Integer, number of epochs.
        batch_size: Integer, images to a step, for arrays.
        steps_per_epoch: Integer, batches to an epoch; an endless data set
            needs it. Defaults to all there are.
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
        ValueError: If labels are not of the store's classes.

    Reference:

    - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """
    check_output(path, overwrite, list_store)
    _check_classes(store)
    content = StoreContent(
        [store[name] for name in store.class_names],
        store.manifest,
        store.familiarity,
        path_from(store.path, store.manifest.contract),
    )
    content = refine_modules(
        content,
        source,
        train,
        validation,
        negatives=negatives,
        epochs=epochs,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
        distillation=distillation,
        seed=seed,
        callbacks=callbacks,
        verbose=verbose,
    )
    return save_store(path, content, overwrite)


def refine_modules(
    content: StoreContent,
    source: keras.Model,
    train: Any,
    validation: Any,
    *,
    negatives: Any = None,
    epochs: int = 4,
    batch_size: int = 64,
    steps_per_epoch: int | None = None,
    learning_rate: float = 0.008,
    distillation: float = 3.0,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> StoreContent:
    """Trains the modules of a store, as `refine` does, unsaved.

    Takes the arguments of `refine` and raises as it does.
    """
    _check_numbers(epochs, batch_size, learning_rate)
    manifest = content.manifest
    teacher, frozen = _teacher(manifest, source)
    num_classes = len(manifest.class_names)
    images, labels = to_arrays(validation, num_classes=num_classes)
    arguments = fit_arguments(train, batch_size, steps_per_epoch)
    contract = manifest.input
    check_training(arguments, num_classes, contract.shape, contract.range)
    value_range_of(images, contract.range)
    if negatives is not None:
        negatives = check_negatives(negatives, contract.shape, contract.range)
    logits = predict(teacher, images, batch_size)
    check_above_chance(answered_classes(logits), labels)
    warn_of_rare_classes(labels, manifest.class_names)
    modules = content.modules
    keras.utils.set_random_seed(seed)
    joint = JointModel(
        [m.model for m in modules], teacher, distillation, frozen
    )
    steps = epochs * count_steps({"validation_split": 0, **arguments})
    joint.compile(
        adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps, 0.05)
        ),
        loss=ModuleLoss(),
        metrics=["accuracy"],
    )
    build_ahead(joint, arguments.get("y"), num_classes)
    if "y" in arguments:
        arguments["x"] = cache_stem(joint.stem, arguments["x"], batch_size)
        images = cache_stem(joint.stem, images, batch_size)
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=epochs, restore_best_weights=True
    )
    given = {
        **arguments,
        "validation_data": (images, labels),
        "validation_batch_size": batch_size,
        "epochs": epochs,
    }
    if negatives is not None:
        given = with_negatives(given, negatives.images, joint.stem)
    given = streamed(given)
    joint.fit(
        **given,
        callbacks=[*callbacks, best],
        verbose=verbose,
    )
    raw = predict(joint, images, batch_size)
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
    if negatives is not None:
        settings["negatives"] = negatives_record(negatives)
    return StoreContent(
        refined,
        _manifest(manifest, settings, refined, raw, labels),
        content.familiarity,
        content.source_path,
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


def _teacher(manifest, source):
    """Returns the source model's copy, and which layers it has frozen."""
    shape = manifest.input.shape
    teacher = rebuild(channel_graph(source, input_shape=shape))
    frozen = [layer.name for layer in teacher.layers if not layer.trainable]
    teacher.trainable = False
    digest = content_digest(teacher)
    if digest != manifest.source.digest:
        raise ArtifactError(
            "Modules are refined with the source model they were cut from, "
            f"{manifest.source.digest}. Received: {source.name!r} with "
            f"the digest {digest}. Give that source model."
        )
    return teacher, frozen


def _refined(joint, index, module, raw, is_class):
    model = joint.weights_of(index, module.model)
    scale, shift = fit_platt(raw, is_class) or (1.0, 0.0)
    model.get_layer(CALIBRATION_LAYER).set_weights(
        [np.array([[scale]]), np.array([shift])]
    )
    info = dataclasses.replace(
        module.info,
        calibration={
            "scale": scale,
            "shift": shift,
            "num_images": len(is_class),
            "num_class_images": int(is_class.sum()),
        },
        metrics=module_metrics(scale * raw + shift, is_class),
        max_output_gap=None,
    )
    return ClassModule(model, info)


def _manifest(old, settings, modules, raw, labels):
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
