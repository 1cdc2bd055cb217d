"""Makes modules of models as they are, with all their kernels."""

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.data.batches import common_class_names
from kmod.data.batches import to_arrays
from kmod.data.streaming import predict
from kmod.data.value_range import value_range_of
from kmod.errors import ArtifactError
from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.files import check_output
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.content import content_digest
from kmod.graph.exactness import check_exactness
from kmod.graph.sizes import model_sizes
from kmod.metrics.calibration import fit_platt
from kmod.metrics.chance import check_above_chance
from kmod.modular.modular_model import ModularModel
from kmod.modules.class_module import ClassModule
from kmod.modules.class_module import ModuleInfo
from kmod.modules.cut import build_module
from kmod.modules.decompose import decompose
from kmod.modules.decompose import module_metrics
from kmod.modules.decompose import stem_sizes
from kmod.modules.familiarity import can_be_familiar
from kmod.modules.familiarity import familiarity_of_store
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import SourceRecord
from kmod.modules.manifest import StoreManifest
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import StoreContent
from kmod.modules.module_store import list_store
from kmod.modules.module_store import save_store


def modules_from_model(
    model: keras.Model,
    path: str | Path,
    *,
    data: Any,
    class_names: Sequence[str] | None = None,
    output: str | None = None,
    value_range: tuple[float, float] | None = None,
    source_name: str | None = None,
    data_source: Mapping[str, Any] | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> ModuleStore:
    """Saves a classifier as a store of modules that keep all its kernels.

    The modules differ in their last layer only. A composition builds what
    they share once, so that all of them together cost what the model does and
    a few of them cost nearly as much. `kmod.modularize` finds smaller ones.

    Args:
        model: Trained Functional or Sequential classifier. It is not changed.
        path: Directory to make.
        data: Validation `(images, labels)` or batched data, to calibrate and
            to measure the modules on, and for the familiarity.
        class_names: Names of the classes, in output order. Defaults to those
            that `data` have, and else to `"0"`, `"1"`, ...
        output: Name of the model's output to take, of several.
        value_range: Smallest and largest pixel value that the model takes.
            Defaults to what is read off `data`.
        source_name: Name of the model. Defaults to its Keras name.
        data_source: JSON data about the data set, for the manifest.
        license: SPDX identifier of the modules' licence.
        overwrite: Whether a store at `path` may be replaced.

    Returns:
        The saved `ModuleStore`.

    Raises:
        UnsupportedModelError: If the model's graph can not be read.
        UsageError: If `path` can not be written or an argument does not fit
            the model.
        ArtifactError: If the model is no better than chance on `data`.
        ValueError: If labels are not of the model's classes.

    Example:

    ```python
    model = keras.models.load_model("animals.keras")
    kmod.modules_from_model(model, "modules/animals", data=validation)
    ```
    """
    check_output(path, overwrite, list_store)
    modular = ModularModel(
        model,
        common_class_names(class_names, data),
        value_range=value_range,
        output=output,
    )
    return decompose(
        modular,
        path,
        data=data,
        source_name=source_name or model.name,
        data_source=data_source,
        method="import",
        arguments={"output": output},
        license=license,
        overwrite=overwrite,
    )


def module_from_model(
    model: keras.Model,
    class_name: str,
    path: str | Path,
    *,
    data: Any,
    class_index: int = 1,
    output: str | None = None,
    value_range: tuple[float, float] | None = None,
    source_name: str | None = None,
    data_source: Mapping[str, Any] | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> ModuleStore:
    """Saves a model of one class as a store with that one module.

    Several models that each tell one class from all else so become one
    classifier: name their stores in a composition spec. All kernels stay;
    what is new is the calibration, so that their scores can be compared.

    Args:
        model: Trained Functional or Sequential model that answers one score
            or two, those of the rest and of the class. It is not changed.
        class_name: Name of the class.
        path: Directory to make.
        data: Validation `(images, labels)` or batched data. Labels are 1
            where an image shows the class and 0 where it does not.
        class_index: Which of two outputs is the class's, 0 or 1.
        output: Name of the model's output to take, of several.
        value_range: Smallest and largest pixel value that the model takes.
            Defaults to what is read off `data`.
        source_name: Name of the model. Defaults to its Keras name.
        data_source: JSON data about the data set, for the manifest.
        license: SPDX identifier of the module's licence.
        overwrite: Whether a store at `path` may be replaced.

    Returns:
        The saved `ModuleStore`.

    Raises:
        UnsupportedModelError: If the model's graph can not be read, it would
            answer otherwise as a module, or it has more than two outputs.
        UsageError: If `path` can not be written or an argument is out of
            range.
        ArtifactError: If the model is no better than chance on `data`.
        ValueError: If labels are not 0 and 1.

    Example:

    ```python
    for name in ("cat", "dog", "bird"):
        model = keras.models.load_model(f"is-{name}.keras")
        kmod.module_from_model(
            model, name, f"modules/{name}", data=(images, labels == name)
        )
    ```
    """
    check_output(path, overwrite, list_store)
    if class_index not in (0, 1):
        raise UsageError(
            "`class_index` must be 0 or 1, the output of the class. Received: "
            f"class_index={class_index!r}"
        )
    images, labels = _arrays(data, model)
    graph = channel_graph(model, output, images.shape[1:])
    if graph.num_classes != 2:
        raise UnsupportedModelError(
            "A model of one class answers one score, or two. Received: "
            f"{model.name!r} with {graph.num_classes} outputs. "
            "`kmod.modules_from_model` (`kmod import` without `--class`) "
            "makes a module of each, `kmod.modularize` (`kmod modularize`) "
            "smaller ones."
        )
    value_range = value_range_of(images, value_range)
    exactness = check_exactness(model, graph, value_range)
    name = source_name or model.name
    network = rebuild(graph, name="module_0")
    head = keras.layers.Dense(1, name="head", dtype="float32")
    raw_score = head(network.output)
    head.set_weights([_weights(graph, class_index), np.zeros(1)])
    raw_model = keras.Model(network.input, raw_score)
    raw = predict(raw_model, images, 64)[:, 0]
    scale, shift = _calibration(raw, labels, name)
    module = build_module(network.input, raw_score, scale, shift, "module_0")
    log_odds = scale * raw + shift
    sizes = model_sizes(module)
    digest = content_digest(network)
    info = ModuleInfo(
        class_name=class_name,
        class_index=0,
        source_digest=digest,
        kept_kernels=graph.kernels.by_layer(np.ones(len(graph.kernels))),
        num_kernels=graph.kernels.num_kernels,
        retention_rate=1.0,
        parameters=sizes.parameters,
        macs=sizes.macs,
        calibration={
            "scale": scale,
            "shift": shift,
            "num_images": len(labels),
            "num_class_images": int(labels.sum()),
        },
        metrics=module_metrics(log_odds, labels == 1),
        max_output_gap=exactness.gap,
    )
    source_sizes = model_sizes(network)
    manifest = StoreManifest(
        source=SourceRecord(name, digest, model.name),
        class_names=(class_name,),
        input=InputContract(
            tuple(graph.trace.input.shape[1:]), "float32", value_range
        ),
        method="import",
        arguments={"class_index": class_index, "output": output},
        kernels=dict(zip(graph.kernels.layers, graph.kernels.counts.tolist())),
        # Of a data set's classes the module knows one: no figures to repeat.
        data={"calibration": dict(data_source or {})},
        license=license,
        metrics={
            "before": {
                "parameters": source_sizes.parameters,
                "macs": source_sizes.macs,
            },
            "after": {"retention_rate": 1.0},
            "stem": stem_sizes([module]),
        },
    )
    familiarity = None
    if can_be_familiar(labels, manifest.input):
        familiarity = familiarity_of_store(manifest, [(images, labels)])
    content = StoreContent([ClassModule(module, info)], manifest, familiarity)
    return save_store(path, content, overwrite)


def _arrays(data, model):
    """Collects images as the model takes them, and labels 0 and 1."""
    if isinstance(data, tuple) and np.asarray(data[1]).dtype == bool:
        data = data[0], np.asarray(data[1]).astype("int64"), *data[2:]
    images, labels = to_arrays(data, num_classes=2)
    shape = model.input_shape
    if isinstance(shape, tuple) and images.ndim == len(shape) - 1:
        images = images[..., None]  # Grey images, as Keras takes them.
    return images, labels


def _weights(graph, class_index):
    """Returns what turns two logits into the log-odds of the class.

    Of two sigmoids each is a score by itself; with a softmax, the difference
    counts. One score comes with a zero in front, the other class's logit.
    """
    weights = np.zeros((2, 1), "float32")
    weights[class_index] = 1
    is_sigmoid = graph.activations[-1:] == ("sigmoid",)
    if graph.is_one_score or not is_sigmoid:
        weights[1 - class_index] = -1
    return weights


def _calibration(raw, labels, name):
    """Fits scale and shift on validation images, if the scores tell any."""
    own, rest = raw[labels == 1], raw[labels == 0]
    if not len(own) or not len(rest):
        raise ArtifactError(
            "A module is calibrated on images of its class (label 1) and of "
            f"others (label 0). Received: {len(own)} images of the class and "
            f"{len(rest)} of others. Give images of both."
        )
    middle = (own.mean() + rest.mean()) / 2
    check_above_chance((raw > middle).astype(int), labels, f"model {name!r}")
    line = fit_platt(raw, labels == 1)
    if line is None:
        raise ArtifactError(
            "The scores of a model must rise with its class. Received: "
            f"{name!r}, whose scores do not, on {len(labels)} images. Label "
            "images of the class 1 and others 0, or give the `class_index` of "
            "the other output."
        )
    return line
