"""The manifest of a composed model, `composition.yaml`."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from kmod.composition.composition_plan import ALL_CLASSES
from kmod.composition.composition_plan import CompositionPlan
from kmod.errors import ArtifactError
from kmod.files import data_digest
from kmod.files import file_record
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import installed_versions
from kmod.modules.plain_yaml import broken
from kmod.modules.plain_yaml import read_yaml
from kmod.modules.plain_yaml import to_plain
from kmod.modules.plain_yaml import to_yaml

VERSION = 1
COMPOSITION_FILE = "composition.yaml"
MAX_MESSAGE = 200


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
            `parameters` and `macs`; `support` if it only helps the module of
            a patch.
        sizes: `parameters` and `macs` of the whole model.
        metrics: Figures on data, by name.
        unshared: `parameters` and `macs` of its parts together, if what they
            have in common was not built once.
        output: `"probabilities"` or `"logits"`.
        other: Which class is for images that no module claims, if any.
        size: How its adapters bring images to another size.
        created_by: Versions of kmod, Keras and TensorFlow.
        files: `size` and `digest` of every file but the manifest, by path.
    """

    name: str
    class_names: tuple[str, ...]
    input: InputContract
    license: str | None
    sources: tuple[Mapping[str, Any], ...]
    sizes: Mapping[str, int]
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unshared: Mapping[str, int] | None = None
    output: str = "probabilities"
    other: str | None = None
    size: str = "resize"
    created_by: Mapping[str, str] = dataclasses.field(
        default_factory=installed_versions
    )
    files: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )


def manifest_of(
    planned: CompositionPlan,
    sizes: Mapping[str, int],
    unshared: Mapping[str, int],
    metrics: Mapping[str, Any],
) -> CompositionManifest:
    """Returns the manifest of a plan that was built, its `files` still empty.

    Args:
        planned: The plan.
        sizes: `parameters` and `macs` of the whole model.
        unshared: The same of its parts together.
        metrics: Figures on data, by name.
    """
    scores, is_patched = planned.spec.scores, planned.spec.base is not None
    return CompositionManifest(
        name=planned.spec.name,
        class_names=planned.spec.class_names,
        input=planned.input,
        license=planned.spec.license,
        sources=tuple(
            _source(planned, entry.name, module, is_patched and number > 0)
            for entry in planned.classes
            for number, module in enumerate(entry.modules)
        )
        + tuple(_support(planned, module) for module in planned.support),
        sizes=sizes,
        metrics=metrics,
        unshared=unshared,
        output=scores.output,
        other=scores.other and scores.other.name,
        size=planned.spec.input.size if planned.spec.input else "resize",
    )


def write_composition_manifest(
    directory: Path, manifest: CompositionManifest
) -> None:
    """Writes `composition.yaml`, sealed with the digest of its content."""
    data = {"version": VERSION, **to_plain(manifest)}
    data["digest"] = data_digest(data)
    path = directory / COMPOSITION_FILE
    path.write_text(to_yaml(data), encoding="utf-8")


def read_composition_manifest(directory: str | Path) -> CompositionManifest:
    """Reads and checks `composition.yaml`, without importing Keras.

    Args:
        directory: Directory that `save_composition` wrote.

    Raises:
        ArtifactError: If there is none, or of another version.
        IntegrityError: If it is not as it was written.
    """
    path = Path(directory) / COMPOSITION_FILE
    if not path.is_file():
        raise ArtifactError(
            "A composed model is a directory with the file "
            f"{COMPOSITION_FILE!r}. Received: '{directory}' without one. Give "
            "the directory that `kmod compose --out` wrote."
        )
    data = read_yaml(path)
    _check(data, path)
    del data["version"], data["digest"]
    contract = InputContract(
        shape=tuple(data["input"]["shape"]),
        dtype=data["input"]["dtype"],
        range=tuple(data["input"]["range"]),
    )
    lists = {key: tuple(data[key]) for key in ("class_names", "sources")}
    return CompositionManifest(**{**data, **lists, "input": contract})


def list_composition(path: Path) -> dict[str, Any]:
    """Lists the files of a composed model, as `check_output` asks for them.

    Args:
        path: Directory that `save_composition` wrote.

    Returns:
        `size` and `digest` of every file that its manifest names, by path.

    Raises:
        ArtifactError: If there is no composed model, or of another version.
        IntegrityError: If its manifest is not as it was written.
    """
    files = read_composition_manifest(path).files
    return {**files, COMPOSITION_FILE: file_record(path / COMPOSITION_FILE)}


def _check(data, path):
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise ArtifactError(
            f"This kmod reads composed models of version {VERSION}. Received: "
            f"version={version} in '{path}'. Use the kmod that wrote it, or "
            "compose its spec again."
        )
    for error in _validator().iter_errors(data):
        message = f"{error.json_path}: {error.message}"[:MAX_MESSAGE]
        raise broken(path, message)
    content = {key: data[key] for key in data if key != "digest"}
    if data["digest"] != data_digest(content):
        raise broken(path, "its content does not match its own digest")


@functools.cache
def _validator():
    file = resources.files("kmod.composition") / "composed_model.schema.json"
    return jsonschema.Draft202012Validator(
        json.loads(file.read_text(encoding="utf-8"))
    )


def _support(planned, module):
    return _source(planned, ALL_CLASSES, module, is_support=True)


def _source(planned, class_name, module, is_support):
    store = planned.stores[module.ref.store]
    return {
        **({"support": True} if is_support else {}),
        "class": class_name,
        "module": module.ref.class_name,
        "store": store.digest,
        "source": store.manifest.source.digest,
        "model": store.manifest.source.name,
        "data": store.manifest.data.get("name"),
        "license": store.manifest.license,
        "retention_rate": module.facts.retention_rate,
        "parameters": module.facts.parameters,
        "macs": module.facts.macs,
    }
