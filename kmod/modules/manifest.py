"""The manifests of a module store: its own and that of each module.

`store.yaml` lists the modules, `assets.extra/module.yaml` the files of one.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import data_digest
from kmod.files import file_digest
from kmod.files import read_files
from kmod.files.manifest import installed_versions
from kmod.files.manifest import read_manifest
from kmod.files.manifest import to_plain
from kmod.files.manifest import what_is_at
from kmod.files.manifest import write_manifest
from kmod.files.plain_yaml import broken
from kmod.modules.class_module import ModuleInfo

STORE_FILE = "store.yaml"
FAMILIARITY_FILE = "familiarity.npz"
STORE_SCHEMA = "modules/store.schema.json"
MODULE_FILE = "assets.extra/module.yaml"
MODULE_SCHEMA = "modules/module.schema.json"


@dataclasses.dataclass(frozen=True)
class SourceRecord:
    """Where the modules of a store come from.

    Attributes:
        name: Name of the source model.
        digest: `content_digest` of the source model.
        architecture: What kind of network it is, in a word, such as `SimCNN`.
    """

    name: str
    digest: str
    architecture: str


@dataclasses.dataclass(frozen=True)
class InputContract:
    """What the modules of a store take.

    Attributes:
        shape: Shape of one image, without the batch axis.
        dtype: Data type of the images, such as `"float32"`.
        range: Smallest and largest value of a pixel.
    """

    shape: tuple[int, ...]
    dtype: str
    range: tuple[float, float]

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "InputContract":
        """Returns the contract that a manifest holds as plain data."""
        return cls(tuple(data["shape"]), data["dtype"], tuple(data["range"]))


@dataclasses.dataclass(frozen=True)
class ModuleSizes:
    """The figures of a module that a composition is planned with.

    Attributes:
        retention_rate: Kept kernels ÷ all kernels of the source, 0 to 1.
        kernels: Number of kernels of the module.
        parameters: Number of its weights.
        macs: Its multiply-accumulates for one image.
    """

    retention_rate: float
    kernels: int
    parameters: int
    macs: int

    @classmethod
    def of(cls, info: ModuleInfo) -> "ModuleSizes":
        """Returns the sizes of a module."""
        kernels = sum(len(kept) for kept in info.kept_kernels.values())
        return cls(info.retention_rate, kernels, info.parameters, info.macs)


@dataclasses.dataclass(frozen=True)
class CalibrationImages:
    """The labelled images that a module was calibrated on.

    Attributes:
        num_images: Number of images.
        num_class_images: Number of those that show the module's class.
    """

    num_images: int
    num_class_images: int

    @classmethod
    def of(cls, info: ModuleInfo) -> "CalibrationImages | None":
        """Returns those of a module, if it is calibrated and they are known."""
        found = info.calibration
        fields = [field.name for field in dataclasses.fields(cls)]
        images = cls(*(found.get(field, 0) for field in fields))
        is_identity = (found.get("scale"), found.get("shift")) == (1, 0)
        is_known = 0 < images.num_class_images < images.num_images
        return images if is_known and not is_identity else None

    @property
    def share(self) -> float:
        """Share of the class among the images, 0 to 1."""
        return self.num_class_images / self.num_images


@dataclasses.dataclass(frozen=True)
class ModuleRecord:
    """One module as its store lists it.

    Attributes:
        class_name: Name of the class.
        class_index: Index of the class in the source model's output.
        directory: Name of the module's directory in the store.
        content: Content digest of the module: which model it is.
        manifest: Digest of the module's manifest file, which in turn holds the
            digests of all its files.
        sizes: Figures from that manifest, so that planning with many modules
            need not read it; `None` in stores that were written without. The
            file calls them `facts`.
        calibration: The images that it was calibrated on, from that manifest;
            `None` if they are not known, as in earlier stores.
    """

    class_name: str
    class_index: int
    directory: str
    content: str
    manifest: str
    sizes: ModuleSizes | None = None
    calibration: CalibrationImages | None = None


@dataclasses.dataclass(frozen=True)
class StoreManifest:
    """What is known of a store as a whole.

    `save_store` fills in `modules`, `custom_layers` and `familiarity`; leave
    them empty for a new store.

    Attributes:
        source: The source model.
        class_names: All classes of the source model, in the order of its
            output, also those that the store has no module of.
        input: What images the modules take.
        method: Name of the method that found the masks.
        arguments: Arguments of that method.
        kernels: Number of kernels of each layer of the source model.
        seed: Seed of the method.
        data: Name, version, split and so on of the data set.
        license: SPDX identifier of the modules' licence.
        metrics: Figures `before` and `after`, by name.
        created_by: Versions of kmod, Keras and TensorFlow.
        modules: The modules in the store.
        custom_layers: Registered names of the layers in them that are not
            Keras' own.
        familiarity: `size` and `digest` of the file of the source's
            familiarity, and `num_images`, the number of images that it was
            fitted on; `None` in stores that were written without.
        contract: What the modules must keep to: `checks`, lines as those of a
            composition spec, and, if known, the path of the `source` model's
            file from the store; `None` in stores that were written without.
    """

    source: SourceRecord
    class_names: tuple[str, ...]
    input: InputContract
    method: str
    arguments: Mapping[str, Any]
    kernels: Mapping[str, int]
    seed: int | None = None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    license: str | None = None
    metrics: Mapping[str, Mapping[str, float]] = dataclasses.field(
        default_factory=dict
    )
    created_by: Mapping[str, str] = dataclasses.field(
        default_factory=installed_versions
    )
    modules: tuple[ModuleRecord, ...] = ()
    custom_layers: tuple[str, ...] = ()
    familiarity: Mapping[str, Any] | None = None
    contract: Mapping[str, Any] | None = None

    def record_of(self, class_name: str) -> ModuleRecord:
        """Returns what it says of the module of a class that it has."""
        return next(m for m in self.modules if m.class_name == class_name)

    @property
    def digest(self) -> str:
        """Digest of all that the store says and holds, its files included.

        The manifest of each module, whose digest is in here, has the digests
        of all its files.
        """
        return data_digest(_to_plain(self))

    @property
    def content_digest(self) -> str:
        """Content identity: the digest of the modules and their facts.

        Two stores of the same modules share it, though the bytes of their
        SavedModels differ from export to export. It pins no file.
        """
        data = _to_plain(self)
        del data["created_by"]
        data.pop("familiarity", None)
        data.pop("contract", None)
        for module in data["modules"]:
            del module["manifest"], module["facts"]
            module.pop("calibration", None)
        return data_digest(data)


def write_store_manifest(directory: Path, manifest: StoreManifest) -> None:
    """Writes `store.yaml`, sealed with the digest of its own content.

    Raises:
        UsageError: If the manifest contradicts itself or its schema.
    """
    faults = _contradictions(manifest)
    if faults:
        raise UsageError(
            "The manifest of a store must not contradict itself. Received: "
            f"{'; '.join(faults)}."
        )
    data = _to_plain(manifest)
    data["digest"] = data_digest(data)
    write_manifest(directory / STORE_FILE, STORE_SCHEMA, data)


def read_store_manifest(directory: Path) -> StoreManifest:
    """Reads and checks `store.yaml`.

    Raises:
        ArtifactError: If there is none, or of another version.
        IntegrityError: If it is not as it was written.
    """
    path = directory / STORE_FILE
    if not os.path.lexists(path):
        raise ArtifactError(
            f"A module store is a directory with the file {STORE_FILE!r}. "
            f"Received: '{directory}'{what_is_at(directory)}. Give the "
            "directory that `kmod modularize --out` or `kmod.decompose` wrote."
        )
    data = read_manifest(path, STORE_SCHEMA)
    if data.pop("digest") != data_digest(data):
        raise broken(path, "its content does not match its own digest")
    manifest = _from_plain(data)
    faults = _contradictions(manifest)
    if faults:
        raise broken(path, "; ".join(faults))
    return manifest


def store_around(directory: str | Path) -> StoreManifest | None:
    """Reads the manifest of the store that a module lies in.

    Args:
        directory: Directory of the module.

    Returns:
        The manifest; `None` if the module lies by itself.

    Raises:
        ArtifactError: If the store is of another version.
        IntegrityError: If the manifest is not as it was written.
    """
    store = Path(os.path.realpath(directory)).parent
    if not os.path.lexists(store / STORE_FILE):
        return None
    return read_store_manifest(store)


@dataclasses.dataclass(frozen=True)
class ModuleManifest:
    """What is known of a module, and the files it consists of.

    Attributes:
        info: What is known of the module.
        content: Content digest of the module: which model it is.
        files: `size` and `digest` of every file but the manifest, by path.
    """

    info: ModuleInfo
    content: str
    files: Mapping[str, Mapping[str, Any]]


def write_module_manifest(
    directory: Path, info: ModuleInfo, content: str
) -> str:
    """Writes the manifest of a module whose other files are all there.

    Returns:
        Digest of the manifest.
    """
    data = to_plain(info)
    if not data["answers"]:  # Nor have earlier modules the key.
        del data["answers"]
    data["content"] = content
    data["files"] = read_files(directory)
    write_manifest(directory / MODULE_FILE, MODULE_SCHEMA, data)
    return file_digest(directory / MODULE_FILE)


def read_module_manifest(
    directory: Path, record: ModuleRecord | None = None
) -> ModuleManifest:
    """Reads and checks the manifest of a module.

    Args:
        directory: Directory of the module.
        record: What the store says of the module. Defaults to what the one
            that it lies in says, if it lies in one.

    Raises:
        ArtifactError: If it has a version that is not read here, or if there
            is no module without a record.
        IntegrityError: If it is missing, or not as the store was written.
    """
    path = directory / MODULE_FILE
    is_there = os.path.lexists(path)
    if record is None and not is_there:
        raise ArtifactError(
            f"A module is a directory with the file {MODULE_FILE!r}. "
            f"Received: '{directory}'{what_is_at(directory)}. Give a class's "
            "directory in a module store."
        )
    if not is_there:
        raise broken(path, "it is missing")
    record = record or _record_around(directory)
    data = read_manifest(path, MODULE_SCHEMA, record and record.manifest)
    content = data.pop("content")
    files = data.pop("files")
    data["kept_kernels"] = {
        layer: tuple(kept) for layer, kept in data["kept_kernels"].items()
    }
    data["answers"] = tuple(data.get("answers", ()))
    for layer, kept in data["kept_kernels"].items():
        if any(one >= next for one, next in itertools.pairwise(kept)):
            raise broken(path, f"its kernels of {layer!r} do not rise")
    return ModuleManifest(ModuleInfo(**data), content, files)


def _record_around(directory):
    """Returns what the store around a module says of it, if there is one."""
    store = store_around(directory)
    if store is None:
        return None
    name = Path(os.path.realpath(directory)).name
    for record in store.modules:
        if record.directory == name:
            return record
    raise broken(directory / MODULE_FILE, "the store does not name it")


def _contradictions(manifest):
    names = manifest.class_names
    faults = []
    low, high = manifest.input.range
    if not -math.inf < low < high < math.inf:
        faults.append(f"values of images are from {low:g} to {high:g}")
    if len(set(names)) < len(names):
        faults.append(f"class names are given twice in {list(names)}")
    for field in ("class_name", "class_index", "directory"):
        values = [getattr(module, field) for module in manifest.modules]
        if len(set(values)) < len(values):
            faults.append(f"two modules share one {field}: {values}")
    for module in manifest.modules:
        if names[module.class_index : module.class_index + 1] != (
            module.class_name,
        ):
            faults.append(
                f"class {module.class_name!r} has index {module.class_index}, "
                f"but the classes are {list(names)}"
            )
    return faults


def _to_plain(manifest):
    data = to_plain(manifest)
    if not data["custom_layers"]:  # Nor have earlier stores the key.
        del data["custom_layers"]
    for key in ("familiarity", "contract"):
        if data[key] is None:  # Nor have earlier stores the key.
            del data[key]
    for module in data["modules"]:
        module["facts"] = module.pop("sizes")
        if module["calibration"] is None:  # Nor have earlier stores the key.
            del module["calibration"]
    return data


def _from_plain(data):
    return StoreManifest(
        source=SourceRecord(**data.pop("source")),
        class_names=tuple(data.pop("class_names")),
        input=InputContract.from_plain(data.pop("input")),
        modules=tuple(_record(**item) for item in data.pop("modules")),
        custom_layers=tuple(data.pop("custom_layers", ())),
        **data,
    )


def _record(facts=None, calibration=None, **data):
    return ModuleRecord(
        **data,
        sizes=facts and ModuleSizes(**facts),
        calibration=calibration and CalibrationImages(**calibration),
    )
