"""Decomposes a modular model into a store of modules."""

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from kmod.data.batches import iter_batches
from kmod.data.batches import to_arrays
from kmod.data.streaming import predict
from kmod.data.value_range import checked_range
from kmod.data.value_range import value_range_of
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.files import check_output
from kmod.graph import set_state
from kmod.graph.content import content_digest
from kmod.graph.exactness import output_gap
from kmod.graph.sizes import layer_macs
from kmod.graph.sizes import model_sizes
from kmod.graph.trace import trace
from kmod.metrics.chance import answered_classes
from kmod.metrics.chance import check_above_chance
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.evaluate import warn_of_rare_classes
from kmod.modular.modular_model import ModularModel
from kmod.modules.class_module import ClassModule
from kmod.modules.class_module import ModuleInfo
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
from kmod.modules.familiarity import can_be_familiar
from kmod.modules.familiarity import fit_familiarity
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import SourceRecord
from kmod.modules.manifest import StoreManifest
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import StoreContent
from kmod.modules.module_store import list_store
from kmod.modules.module_store import save_store

NUM_RANDOM_IMAGES = 16


def decompose(
    modular: ModularModel,
    path: str | Path,
    *,
    data: Any = None,
    train: Any = None,
    source_name: str | None = None,
    value_range: tuple[float, float] | None = None,
    data_source: Mapping[str, Any] | None = None,
    method: str = "gradsplitter",
    arguments: Mapping[str, Any] | None = None,
    license: str | None = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> ModuleStore:
    """Cuts a module out for every class and saves them as a store.

    The source model is first measured on the data given. A modular model that
    is not calibrated yet is calibrated on them, as its `calibrate` does. Every
    module is compared with the masked model on their images; if the source
    only guesses or a module differs, nothing is saved.

    Args:
        modular: Trained modular model.
        path: Directory to make.
        data: Held-out `(images, labels)` or batched data, to calibrate, to
            compare and to measure modules on, and for the familiarity of the
            source. Defaults to random images, on which modules are compared
            only; the store then gets no familiarity, nor does one of images
            that are neither grey nor RGB.
        train: More images and labels for the familiarity, such as those that
            the source was trained on. With more images it is more certain.
        source_name: Name of the source model. Defaults to its Keras name.
        value_range: Smallest and largest pixel value the source takes.
            Defaults to that of `modular`, and else to what is read off `data`.
        data_source: JSON data about the data set, for the manifest.
        method: Name of the method that found the masks, for the manifest.
        arguments: JSON data about how it was called, beside the recipe.
        license: SPDX identifier of the modules' licence.
        tolerance: Largest difference allowed, relative to the largest score.
        overwrite: Whether a store at `path` may be replaced.

    Returns:
        The saved `ModuleStore`.

    Raises:
        CheckError: If a module does not answer as the masked model does.
        ArtifactError: If the source model is no better than chance on `data`.
        UsageError: If `path` can not be written, `data` or `train` lie outside
            the value range or in a tiny part of it, or neither range nor
            `data` is given.
        ValueError: If labels are not of the model's classes.
    """
    check_output(path, overwrite, list_store)
    content = cut_modules(
        modular,
        data=data,
        train=train,
        source_name=source_name,
        value_range=value_range,
        data_source=data_source,
        method=method,
        arguments=arguments,
        license=license,
        tolerance=tolerance,
    )
    return save_store(path, content, overwrite)


def cut_modules(
    modular: ModularModel,
    *,
    data: Any,
    train: Any = None,
    source_name: str | None = None,
    value_range: tuple[float, float] | None = None,
    data_source: Mapping[str, Any] | None = None,
    method: str = "gradsplitter",
    arguments: Mapping[str, Any] | None = None,
    license: str | None = None,
    tolerance: float = 1e-4,
    part: Sequence[int] | None = None,
) -> StoreContent:
    """Cuts a module out for every class, as `decompose` does, unsaved.

    Takes the arguments of `decompose` and raises as it does. With `part`, only
    the modules of these class indices are cut, of a calibrated model, for
    `merge_parts` to put together; the first part has the familiarity.
    """
    given, modular = modular, as_float32(modular)
    value_range = checked_range(value_range) or modular.value_range
    images, labels, value_range = _held_out(data, modular, value_range)
    if labels is not None:
        warn_of_rare_classes(labels, modular.class_names)
    source_metrics = _source_metrics(modular, images, labels)
    if labels is not None and not given.is_calibrated:
        given.calibrate(images, labels)
        modular = as_float32(given)
    indices = range(modular.num_classes) if part is None else part
    expected = modular.class_log_odds(images, class_indices=part)
    digest = content_digest(modular.flat_source)
    modules = []
    for column, index in enumerate(indices):
        name = modular.class_names[index]
        model = cut_module(modular, index)
        answers = predict(log_odds_model(model), images)[:, 0]
        gap = output_gap(answers, expected[:, column])
        if not gap <= tolerance:
            raise CheckError(
                "A module must answer as the masked model does, within "
                f"{tolerance:g} of the largest score. Received: the module "
                f"of class {name!r} with a gap of {gap:.3g}. Please report "
                "this with the source model's architecture."
            )
        metrics = (
            {} if labels is None else module_metrics(answers, labels == index)
        )
        info = _info(modular, index, model, digest, metrics, gap)
        modules.append(ClassModule(model, info))
    contract = InputContract(
        tuple(modular.flat_source.input_shape[1:]), "float32", value_range
    )
    familiarity = None
    is_first = part is None or 0 in part
    if is_first and labels is not None and can_be_familiar(labels, contract):
        own = [(images, labels)]
        if train is not None:
            value_range_of(next(iter_batches(train))[0], value_range)
            own.append(train)
        familiarity = fit_familiarity(own, modular.class_names, contract)
    arguments = {
        **(arguments or {}),
        "recipe": modular.recipe.as_dict(),
        "mask_from": modular.mask_from,
    }
    after = {"retention_rate": modular.retention_rate}
    models = [module.model for module in modules]
    if part is not None:
        models.insert(0, cut_module(modular, 0))  # One that all parts have.
        arguments["part"] = {"stem": stem_layers(models)}
    elif labels is not None:
        after["accuracy"] = float(np.mean(expected.argmax(1) == labels))
    manifest = StoreManifest(
        source=SourceRecord(
            source_name or modular.flat_source.name,
            digest,
            modular.flat_source.name,
        ),
        class_names=modular.class_names,
        input=contract,
        method=method,
        arguments=arguments,
        kernels=dict(
            zip(modular.kernels.layers, modular.kernels.counts.tolist())
        ),
        seed=modular.seed,
        data=dict(data_source or {}),
        license=license,
        metrics={
            "before": source_metrics,
            "after": after,
            "stem": sum_sizes(stem_layers(models)),
        },
    )
    return StoreContent(modules, manifest, familiarity)


def as_float32(modular: ModularModel) -> ModularModel:
    """Returns the model itself, or its float32 twin under mixed precision."""
    if modular.dtype_policy.compute_dtype == "float32":
        return modular
    config = {**modular.get_config(), "dtype": "float32"}
    twin = ModularModel.from_config(config)
    set_state(twin, modular.get_weights())
    return twin


def _held_out(data, modular, value_range):
    """Returns images, labels (`None` for random ones) and value range."""
    if data is not None:
        images, labels = to_arrays(data, num_classes=modular.num_classes)
        return images, labels, value_range_of(images, value_range)
    if value_range is None:
        raise UsageError(
            "`value_range` must be known, because compositions scale images to "
            "it. Received: neither `value_range` nor `data` to read it off. "
            "Give held-out `data`, or declare it, such as "
            "value_range=(0, 255)."
        )
    shape = (NUM_RANDOM_IMAGES, *modular.flat_source.input_shape[1:])
    draw = np.random.default_rng(modular.seed)
    images = draw.uniform(*value_range, shape).astype("float32")
    return images, None, value_range


def _source_metrics(modular, images, labels):
    """Measures the source model; refuses one that only guesses."""
    sizes = model_sizes(modular.flat_source)
    metrics = {"parameters": sizes.parameters, "macs": sizes.macs}
    if labels is not None:
        logits = predict(modular.flat_source, images)
        metrics["accuracy"] = check_above_chance(
            answered_classes(logits), labels
        )
    return metrics


def _info(modular, index, model, digest, metrics, gap):
    mask = modular.kernel_masks[index]
    sizes = model_sizes(model)
    scale, shift = ops.convert_to_numpy(modular.calibration)[index].tolist()
    calibration = {"scale": scale, "shift": shift}
    counts = ops.convert_to_numpy(modular.calibration_images)
    if counts.any():
        calibration["num_images"] = int(counts.sum())
        calibration["num_class_images"] = int(counts[index])
    return ModuleInfo(
        class_name=modular.class_names[index],
        class_index=index,
        source_digest=digest,
        kept_kernels=modular.kernels.by_layer(mask),
        num_kernels=modular.kernels.num_kernels,
        retention_rate=float(mask.mean()),
        parameters=sizes.parameters,
        macs=sizes.macs,
        calibration=calibration,
        metrics=metrics,
        max_output_gap=gap,
    )


def module_metrics(
    log_odds: np.ndarray, is_class: np.ndarray
) -> dict[str, float]:
    """Measures one module alone, its threshold at probability one half.

    Args:
        log_odds: Float array `(n,)`, what it answers.
        is_class: Boolean array `(n,)`, which images show its class.

    Returns:
        Its `precision`, `recall` and `f1`; nothing if no image shows it.
    """
    if not is_class.any():
        return {}
    labels, predictions = is_class.astype(int), (log_odds > 0).astype(int)
    return evaluate_answers(labels, predictions, ("other", "own")).figures_of(1)


def stem_sizes(modules: Sequence[keras.Model]) -> dict[str, int]:
    """Measures the layers that a composition of all modules builds once.

    These are the layers of equal weights that see nothing but the image and
    each other: the part of the source in front of the first mask.

    Args:
        modules: Modules of one source, as `cut_module` made them.

    Returns:
        Dict of the `parameters` and `macs` of those layers.
    """
    return sum_sizes(stem_layers(modules))


def stem_layers(modules: Sequence[keras.Model]) -> dict[str, dict[str, int]]:
    """Measures each of the layers that `stem_sizes` sums up, by its name."""
    macs = layer_macs(modules[0])
    return {
        layer.name: {
            "parameters": layer.count_params(),
            "macs": macs.get(layer.name, 0),
        }
        for layer in _stem_layers(modules)
    }


def sum_sizes(layers: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Sums up the sizes of layers, as `stem_layers` gives them."""
    return {
        key: sum(sizes[key] for sizes in layers.values())
        for key in ("parameters", "macs")
    }


def _stem_layers(modules):
    traced = trace(modules[0])
    common, layers = {traced.input.index}, {}
    for call in traced.calls:
        is_reached = all(ref.index in common for ref in call.inputs)
        if is_reached and _is_equal(call.operation, modules):
            common.update(ref.index for ref in call.outputs)
            if isinstance(call.operation, keras.layers.Layer):
                layers[call.operation.name] = call.operation
    return layers.values()


def _is_equal(operation, modules):
    """Tells whether a layer has the same weights in all modules."""
    if not isinstance(operation, keras.layers.Layer):
        return True
    first, *others = (
        module.get_layer(operation.name).get_weights() for module in modules
    )
    return all(
        len(weights) == len(first) and all(map(np.array_equal, weights, first))
        for weights in others
    )
