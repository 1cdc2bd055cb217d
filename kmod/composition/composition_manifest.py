"""What is known of a composed model: `composition.yaml` and its model card.

Manifests are read without importing Keras.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from kmod.composition.plan import ALL_CLASSES
from kmod.composition.plan import CompositionPlan
from kmod.composition.plan import prior_in_words
from kmod.errors import ArtifactError
from kmod.files import check_files
from kmod.files import data_digest
from kmod.files import file_record
from kmod.files import read_again_if_replaced
from kmod.files.manifest import VERSION
from kmod.files.manifest import installed_versions
from kmod.files.manifest import list_sealed
from kmod.files.manifest import read_manifest
from kmod.files.manifest import to_plain
from kmod.files.manifest import what_is_at
from kmod.files.manifest import write_manifest
from kmod.files.model_card import escaped
from kmod.files.model_card import front_matter
from kmod.files.model_card import markdown_table
from kmod.files.model_card import numbers
from kmod.files.plain_yaml import broken
from kmod.modules.manifest import InputContract

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kmod.composition.patched_model import Patch

COMPOSITION_FILE = "composition.yaml"
EXPORT_FILE = "export.yaml"
SCHEMA = "composition/composed_model.schema.json"
MAX_NAME = 100  # That of a model.

LOADING = {
    "keras": """\
As a Keras model, of built-in layers only:

```python
import keras

model = keras.saving.load_model("model.keras", safe_mode=True)
scores = model.predict(images)
```
""",
    "savedmodel": """\
As a SavedModel, with TensorFlow alone:

```python
import tensorflow as tf

served = tf.saved_model.load("saved_model")
answers = served.serve(images)
print(answers["class_name"])
```
""",
    "litert": """\
With LiteRT; `labels.txt` names the classes, one a line:

```python
from ai_edge_litert.interpreter import Interpreter

serve = Interpreter("model.tflite").get_signature_runner("serve")
probabilities = serve(image=images)["probabilities"]
```
""",
    "onnx": """\
With ONNX Runtime; `labels.txt` names the classes, one a line:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(probabilities,) = session.run(["probabilities"], {"image": images})
```
""",
}


@dataclasses.dataclass(frozen=True)
class CompositionManifest:
    """What is known of a composed model.

    Attributes:
        name: Name of the model.
        class_names: Its classes, in the order of its outputs.
        input: What images it takes.
        license: SPDX expression, or `None` if the spec has none.
        sources: For each module: the `class` it answers for, `module` (its
            class in the store), digests of `store` and `source`, the source
            model's `model` name and `data` set, `license`, `retention_rate`,
            `parameters` and `macs`; `auxiliary` if it only helps others. Of a
            module that was given in memory the store is not known.
        sizes: `parameters` and `macs` of the whole model.
        metrics: Figures on data, by name.
        unshared: `parameters` and `macs` of its parts together, if what they
            have in common was not built once; `None` if not counted.
        output: `"probabilities"` or `"logits"`.
        other: Which class is for images that no module claims, if any.
        size: How its adapters bring images to another size.
        calibration: What makes the scores of its modules comparable: the
            `kind`, the `prior` of classes, whether familiarity tells sources
            apart (`routed`), and of a kind that is fitted the number of
            images of each class, `class_images`. Empty if patched.
        student: If it is one network that learned to answer as a composition
            of `sources` does: its `architecture`, the `data` that it learned
            on, how many unlabelled images (`num_images`) and `epochs`, and
            its `agreement` with the composition on `num_held_out` others.
            Empty if it is the composition.
        slimmed: If kernels were removed from all of it: what its sizes were
            `before`, the `data`, `num_images`, `num_labelled` of these and
            `epochs` of the training after that, and its `agreement` with what
            it was on `num_held_out` other images. Empty if none were.
        arguments: JSON data about how it was made, such as the `task` of a
            job list.
        contract: What it must keep to: `checks`, lines as those of a spec,
            and `answers`, what it scores a few digits in front of its
            softmax. Empty if it was written without.
        created_by: Versions of kmod, Keras and TensorFlow.
        files: `size` and `digest` of every file but the manifest, by path.
    """

    name: str
    class_names: tuple[str, ...]
    input: InputContract
    license: str | None
    sources: tuple[Mapping[str, Any], ...]
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unshared: Mapping[str, int] | None = None
    output: str = "probabilities"
    other: str | None = None
    size: str = "resize"
    calibration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    student: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    slimmed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    contract: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    created_by: Mapping[str, str] = dataclasses.field(
        default_factory=installed_versions
    )
    files: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )


def manifest_of(planned: CompositionPlan) -> CompositionManifest:
    """Returns what is known of a model before it is built."""
    scores, is_patched = planned.spec.scores, planned.spec.base is not None
    shifts = iter(planned.shifts)
    calibration = {"kind": scores.calibration, "prior": planned.prior}
    return CompositionManifest(
        name=planned.spec.name,
        class_names=planned.spec.class_names,
        input=planned.input,
        license=planned.spec.license,
        sources=tuple(
            _source(
                planned,
                entry.name,
                module,
                is_patched and number > 0,
                next(shifts),
            )
            for entry in planned.classes
            for number, module in enumerate(entry.modules)
        )
        + tuple(
            _source(planned, ALL_CLASSES, module, is_auxiliary=True)
            for module in planned.auxiliary
        ),
        output=scores.output,
        other=scores.other and scores.other.name,
        size=planned.spec.input.size if planned.spec.input else "resize",
        calibration={} if is_patched else calibration,
    )


def with_fit(
    manifest: CompositionManifest, labels: np.ndarray
) -> CompositionManifest:
    """Returns a manifest that says what its calibration was fitted on.

    Args:
        manifest: The manifest.
        labels: int64 array `(n,)`, class indices of the images; those above
            the classes are of none of them.
    """
    classes = [name for name in manifest.class_names if name != manifest.other]
    counts = {
        name: int((labels == index).sum()) for index, name in enumerate(classes)
    }
    images = {"num_images": len(labels), "class_images": counts}
    return dataclasses.replace(
        manifest, calibration={**manifest.calibration, **images}
    )


def manifest_of_patches(
    name: str,
    class_names: Sequence[str],
    images: InputContract,
    patches: Sequence[Patch],
) -> CompositionManifest:
    """Does what `manifest_of` does, for a model patched without a spec.

    Args:
        name: Name of the patched model.
        class_names: Its classes.
        images: What images it takes.
        patches: The patches.
    """
    return CompositionManifest(
        name=name,
        class_names=tuple(class_names),
        input=images,
        license=None,
        sources=tuple(
            {
                **({"auxiliary": True} if number else {}),
                "class": class_names[patch.target],
                "module": module.info.class_name,
                "store": None,
                "source": module.info.source_digest,
                "license": None,
                "retention_rate": module.info.retention_rate,
                "parameters": module.info.parameters,
                "macs": module.info.macs,
            }
            for patch in patches
            for number, module in enumerate((patch.module, *patch.auxiliary))
        ),
    )


def fitting_name(name: str, ending: str = "") -> str:
    """Cuts the name of a user's model to what a manifest takes.

    Args:
        name: Such as that of its file.
        ending: What stays behind it.
    """
    return name[: MAX_NAME - len(ending)] + ending


def manifest_of_model(
    name: str,
    class_names: Sequence[str],
    images: InputContract,
    digest: str,
    sizes: Mapping[str, int],
) -> CompositionManifest:
    """Does what `manifest_of` does, for a classifier that was not composed.

    Args:
        name: Name of the model.
        class_names: Its classes.
        images: What images it takes.
        digest: Digest of its content.
        sizes: Its `parameters` and `macs`.
    """
    return CompositionManifest(
        name=fitting_name(name),
        class_names=tuple(class_names),
        input=images,
        license=None,
        sources=tuple(
            {
                "class": each,
                "module": each,
                "store": None,
                "source": digest,
                "model": name,
                "license": None,
                "retention_rate": 1.0,
                **sizes,
            }
            for each in class_names
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Composition:
    """What a model was made from, its attribute `composition`.

    Attributes:
        manifest: What is known of the model, without its `sizes` and `files`.
        plan: The plan that it was built from; `None` if no spec made it.
        base: Digest of the file of the weak model, of a patch spec.
    """

    manifest: CompositionManifest
    plan: CompositionPlan | None = None
    base: str | None = None


def total_sizes(models: Iterable[keras.Model]) -> dict[str, int]:
    """Adds up the `parameters` and `macs` of models."""
    from kmod.graph.sizes import model_sizes

    sizes = [model_sizes(model) for model in models]
    return {
        key: sum(getattr(size, key) for size in sizes)
        for key in ("parameters", "macs")
    }


def write_composition_manifest(
    directory: Path, manifest: CompositionManifest
) -> None:
    """Writes `composition.yaml`, sealed with the digest of its content."""
    data = to_plain(manifest)
    data["digest"] = _digest(data)
    write_manifest(directory / COMPOSITION_FILE, SCHEMA, data)


def read_composition_manifest(directory: str | Path) -> CompositionManifest:
    """Reads and checks `composition.yaml`, without importing Keras.

    Args:
        directory: Directory that `kmod.save` wrote.

    Raises:
        ArtifactError: If there is none, or of another version.
        IntegrityError: If it is not as it was written.
    """
    path = Path(directory) / COMPOSITION_FILE
    if not os.path.lexists(path):
        raise ArtifactError(
            "A composed model is a directory with the file "
            f"{COMPOSITION_FILE!r}. Received: '{directory}'"
            f"{what_is_at(path.parent)}. Give the directory that "
            "`kmod compose --out` wrote."
        )
    data = read_manifest(path, SCHEMA)
    if data.pop("digest") != _digest(data):
        raise broken(path, "its content does not match its own digest")
    for source in data["sources"]:
        if "support" in source:  # What `auxiliary` was called at first.
            source["auxiliary"] = source.pop("support")
    contract = InputContract.from_plain(data["input"])
    lists = {key: tuple(data[key]) for key in ("class_names", "sources")}
    return CompositionManifest(**{**data, **lists, "input": contract})


def check_composition(directory: str | Path) -> CompositionManifest:
    """Reads the manifest of a composed model and checks every file by it.

    Args:
        directory: Directory that `kmod.save` wrote.

    Raises:
        ArtifactError: If there is none, or of another version.
        IntegrityError: If it is not as it was written.
    """
    directory = Path(directory)

    def read():
        manifest = read_composition_manifest(directory)
        check_files(directory, manifest.files, COMPOSITION_FILE)
        return manifest

    return read_again_if_replaced(directory, read)


def list_export(path: Path) -> dict[str, Any]:
    """Lists the files of an export; see `list_sealed`."""
    return list_sealed(path / EXPORT_FILE)


def list_composition(path: Path) -> dict[str, Any]:
    """Lists the files of a composed model, as `check_output` asks for them.

    Args:
        path: Directory that `kmod.save` wrote.

    Returns:
        `size` and `digest` of every file that its manifest names, by path.

    Raises:
        ArtifactError: If there is no composed model, or of another version.
        IntegrityError: If its manifest is not as it was written.
    """
    files = read_composition_manifest(path).files
    return {**files, COMPOSITION_FILE: file_record(path / COMPOSITION_FILE)}


def _digest(data):
    return data_digest({"version": VERSION, **data})


def _source(planned, class_name, module, is_auxiliary, shift=0.0):
    store = planned.stores[module.ref.store]
    images = module.calibration
    return {
        **({"auxiliary": True} if is_auxiliary else {}),
        **({"class_share": images.share} if images else {}),
        **({"shift": shift} if shift else {}),
        "class": class_name,
        "module": module.ref.class_name,
        "store": store.digest,
        "source": store.manifest.source.digest,
        "model": store.manifest.source.name,
        "data": store.manifest.data.get("name"),
        "license": store.manifest.license,
        "retention_rate": module.sizes.retention_rate,
        "parameters": module.sizes.parameters,
        "macs": module.sizes.macs,
    }


def model_card(manifest: CompositionManifest, formats: Sequence[str]) -> str:
    """Returns the model card of a composed model, as Hugging Face reads it.

    Args:
        manifest: Its manifest.
        formats: Which forms of it there are, keys of `LOADING`.

    Returns:
        Markdown after a YAML front matter. Names, which may be any text, are
        escaped.
    """
    sources = manifest.sources
    sections = [
        front_matter(
            manifest.license,
            (source.get("data") for source in sources),
            (source.get("model") for source in sources),
        ),
        f"# {escaped(manifest.name)}\n",
        _introduction(manifest),
        "## Classes and their sources\n",
        _classes(manifest) if is_own(manifest) else _sources(manifest),
        "## Figures\n",
        _figures(manifest),
        "## How to load it\n",
        *(LOADING[name] for name in formats),
    ]
    return "\n".join(sections)


def _introduction(manifest):
    contract = manifest.input
    shape = "x".join(str(size) for size in contract.shape)
    low, high = contract.range
    text = (
        f"A classifier of {len(manifest.class_names)} classes that kmod "
        f"{_made(manifest)} It takes "
        f"{contract.dtype} images of {shape} with values from {low:g} to "
        f"{high:g} and answers with {manifest.output}; of equal answers "
        "the first class counts.\n"
    )
    if manifest.other is not None:
        text += (
            f"\nThe class {escaped(manifest.other)} is for images of none "
            "of the others.\n"
        )
    if manifest.calibration.get("routed") and not manifest.student:
        text += (
            "\nWhich source an image belongs to is told by what each source's "
            "own images are like.\n"
        )
    return text + _prior(manifest.calibration)


def _made(manifest):
    """Says how a model came to be."""
    student, slimmed = manifest.student, manifest.slimmed
    text = "composed from modules of other models."
    if is_own(manifest):
        text = "made from a model of the user's."
    if student:
        text = (
            f"distilled: one network ({escaped(student['architecture'])}) "
            "that learned to answer as a composition of modules of other "
            f"models does, {_learned(student)}"
        )
    if slimmed:
        text += (
            " It was slimmed: kernels were removed from all of it, from "
            f"{slimmed['before']['macs']:,} multiply-accumulates and "
            f"{slimmed['before']['parameters']:,} parameters on, and the rest "
            f"learned to answer as before, {_learned(slimmed)}"
        )
    return text


def is_own(manifest: CompositionManifest) -> bool:
    """Tells whether a model was made from one of the user's, of no module."""
    sources = manifest.sources
    return len(sources) > 0 and all(
        source["store"] is None and "model" in source for source in sources
    )


def is_patched(manifest: CompositionManifest) -> bool:
    """Tells whether only some classes have modules: a weak model answers."""
    answered = {source["class"] for source in manifest.sources} - {ALL_CLASSES}
    rest = set(manifest.class_names) - answered - {manifest.other}
    return bool(answered and rest)


def _learned(record):
    return (
        f"from the answers to {learned_images(record)} of "
        f"{escaped(record['data'])}. It agrees with that on "
        f"{record['agreement']:.1%} of {record['num_held_out']:,} others."
    )


def learned_images(record: Mapping[str, Any]) -> str:
    """Says how many images a student or slim model learned from.

    Args:
        record: `student` or `slimmed` of a manifest.
    """
    count, labelled = record["num_images"], record.get("num_labelled", 0)
    if not labelled:
        return f"{count:,} unlabelled images"
    if labelled == count:
        return f"{count:,} images and the labels"
    return f"{count:,} images and {labelled:,} labels"


def _prior(calibration):
    """Says how frequent classes count as."""
    prior = calibration.get("prior")
    if prior is None:
        return ""
    words = escaped(prior_in_words(prior))
    return f"\nIts scores take classes to be {words}.\n"


def _classes(manifest):
    names = ", ".join(map(escaped, manifest.class_names))
    source = manifest.sources[0]
    return f"{names}; all of the model {escaped(source['model'])}.\n"


def _sources(manifest):
    rows = [
        [
            source["class"],
            source["module"]
            + (" (auxiliary)" if source.get("auxiliary") else ""),
            source.get("model") or "not named",
            source.get("data") or "not named",
            source["license"] or "none",
            f"{source['retention_rate']:.1%}",
            source["store"] or "given in memory",
        ]
        for source in manifest.sources
    ]
    columns = (
        *("class", "module", "source model", "data", "licence"),
        *("kernels kept", "store"),
    )
    return markdown_table(columns, rows)


def _figures(manifest):
    sizes = {
        "model": manifest.sizes,
        "its parts, nothing shared": manifest.unshared,
    }
    sections = [
        markdown_table(
            ("", "parameters", "MACs for one image"),
            [
                [name, f"{row['parameters']:,}", f"{row['macs']:,}"]
                for name, row in sizes.items()
                if row is not None
            ],
        )
    ]
    checks = manifest.metrics.get("checks", ())
    if checks:
        sections.append("Checks that the model had to pass:\n")
        sections.append(markdown_table(CHECK_COLUMNS, map(check_row, checks)))
    measured = [
        [name, f"{value:.4f}"]
        for name, value in numbers(manifest.metrics)
        if not name.startswith("checks")
    ]
    if measured:
        sections.append("Other measurements:\n")
        sections.append(markdown_table(("figure", "value"), measured))
    return "\n".join(sections)


CHECK_COLUMNS = "metric", "class", "data", "measured", "wanted"


def check_row(figures: Mapping[str, Any]) -> list[str]:
    """Writes what a check found, for the columns `CHECK_COLUMNS`.

    Args:
        figures: An item of `checks` in the manifest's `metrics`.
    """
    value = figures["value"]
    values = value if isinstance(value, list) else [value]
    changed = [
        f" ({key} {figures[key]})"
        for key in ("shift", "flip")
        if key in figures
    ]
    return [
        "".join([figures["metric"], *changed]),
        figures["class"] or "all",
        figures["data"] or "",
        " to ".join(f"{value:.4f}" for value in values),
        wanted(figures.get("min"), figures.get("max")),
    ]


def wanted(least: float | None, most: float | None) -> str:
    """Says between which limits a figure must lie."""
    if most is None:
        return f"at least {least:g}"
    if least is None:
        return f"at most {most:g}"
    return f"from {least:g} to {most:g}"
