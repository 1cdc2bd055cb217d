"""The manifest of one module, `assets.extra/module.yaml`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmod.errors import ArtifactError
from kmod.files import file_digest
from kmod.files import read_files
from kmod.modules.class_module import ModuleInfo
from kmod.modules.manifest import ModuleFacts
from kmod.modules.manifest import ModuleRecord
from kmod.modules.manifest_file import read_manifest
from kmod.modules.manifest_file import write_manifest
from kmod.modules.plain_yaml import broken
from kmod.modules.plain_yaml import to_plain

MODULE_FILE = "assets.extra/module.yaml"


@dataclasses.dataclass(frozen=True)
class ModuleManifest:
    """What is known of a module, and the files it consists of.

    Attributes:
        info: Facts about the module.
        content: Content digest of the module: which model it is.
        files: `size` and `digest` of every file but the manifest, by path.
    """

    info: ModuleInfo
    content: str
    files: Mapping[str, Mapping[str, Any]]


def module_facts(info: ModuleInfo) -> ModuleFacts:
    """Returns the figures that the store's manifest repeats of a module."""
    return ModuleFacts(
        retention_rate=info.retention_rate,
        kernels=sum(len(kept) for kept in info.kept_kernels.values()),
        parameters=info.parameters,
        macs=info.macs,
    )


def write_module_manifest(
    directory: Path, info: ModuleInfo, content: str
) -> str:
    """Writes the manifest of the files that are in a module's directory.

    Args:
        directory: Directory of the module, complete but for the manifest.
        info: Facts about the module.
        content: Content digest of the module.

    Returns:
        Digest of the manifest.
    """
    data = to_plain(info)
    data["content"] = content
    data["files"] = read_files(directory)
    write_manifest(directory / MODULE_FILE, "module", data)
    return file_digest(directory / MODULE_FILE)


def read_module_manifest(
    directory: Path, record: ModuleRecord
) -> ModuleManifest:
    """Reads and checks the manifest of a module.

    Args:
        directory: Directory of the module.
        record: What the store says of the module.

    Raises:
        ArtifactError: If it has a version that is not read here.
        IntegrityError: If it is missing, or not as the store was written.
    """
    path = directory / MODULE_FILE
    if not path.exists():
        raise broken(path, "it is missing")
    data = read_manifest(path, "module")
    if file_digest(path) != record.manifest:
        raise broken(path, "its digest is not the one in the store's manifest")
    content = data.pop("content")
    files = data.pop("files")
    data["kept_kernels"] = {
        layer: tuple(kept) for layer, kept in data["kept_kernels"].items()
    }
    return ModuleManifest(ModuleInfo(**data), content, files)


def record_of(directory: Path) -> ModuleRecord:
    """Returns the record of a module by itself, without its store.

    It can only be held against its own manifest then.

    Args:
        directory: Directory of the module.

    Raises:
        ArtifactError: If there is no module, or one of another version.
        IntegrityError: If its manifest is not as it was written.
    """
    path = directory / MODULE_FILE
    if not path.is_file():
        raise ArtifactError(
            f"A module is a directory with the file {MODULE_FILE!r}. "
            f"Received: '{directory}' without one. Give a class's directory "
            "in a module store."
        )
    record = ModuleRecord("", 0, directory.name, "", file_digest(path))
    manifest = read_module_manifest(directory, record)
    return dataclasses.replace(
        record,
        class_name=manifest.info.class_name,
        class_index=manifest.info.class_index,
        content=manifest.content,
    )
