"""Manifests: YAML files that say what an artifact is and what it holds.

Some keep to a JSON schema of theirs, some are sealed with the digest of what
they say. No framework is imported to read them.
"""

import dataclasses
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from kmod import __version__
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files.digests import data_digest
from kmod.files.digests import file_record
from kmod.files.plain_yaml import broken
from kmod.files.plain_yaml import read_yaml
from kmod.files.plain_yaml import to_yaml
from kmod.files.schemas import validator

VERSION = 1
MAX_FAULTS = 5
MAX_MESSAGE = 200


def installed_versions() -> dict[str, str]:
    """Returns the versions of kmod, Keras and TensorFlow, importing neither."""
    return {
        "kmod": __version__,
        "keras": metadata.version("keras"),
        "tensorflow": metadata.version("tensorflow"),
    }


def to_plain(value: Any) -> Any:
    """Turns dataclasses, mappings, sequences and NumPy values into plain data.

    Raises:
        TypeError: If there is a value that YAML has no plain form for.
    """
    if hasattr(value, "tolist"):  # NumPy arrays and scalars.
        value = value.tolist()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    raise TypeError(
        "A manifest holds texts, numbers, truth values, `None`, and lists and "
        f"mappings of them. Received: {value!r} of type "
        f"{type(value).__name__}. Convert it first."
    )


def what_is_at(path: Path) -> str:
    """Says what is in the place of a directory that has a manifest.

    Returns:
        Words to stand behind its path.
    """
    if not os.path.lexists(path):
        return ", which does not exist"
    if not path.is_dir():
        return ", which is no directory"
    if (path / "saved_model.pb").is_file():
        return ", a SavedModel that kmod did not write"
    return " without one"


def write_manifest(path: Path, schema: str, data: dict[str, Any]) -> None:
    """Writes a manifest that keeps to a schema.

    Args:
        path: File to write.
        schema: Path of its schema in the package.
        data: Plain data, without the version.

    Raises:
        UsageError: If the data breaks the schema.
    """
    data = {"version": VERSION, **data}
    if faults := _schema_faults(data, schema):
        raise UsageError(
            f"What goes into '{path.name}' must keep to its schema. "
            f"Received: {faults}."
        )
    path.write_text(to_yaml(data), encoding="utf-8")


def read_manifest(
    path: Path, schema: str, digest: str | None = None
) -> dict[str, Any]:
    """Reads a manifest that keeps to a schema.

    Args:
        path: File to read.
        schema: Path of its schema in the package.
        digest: Digest of the bytes that are read. Defaults to any.

    Returns:
        Plain data, without the version.

    Raises:
        ArtifactError: If there is no such file, or of another version.
        IntegrityError: If it is no YAML, has another digest, or breaks the
            schema.
    """
    data = read_yaml(path, digest)
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise ArtifactError(
            f"This kmod reads manifests of version {VERSION}. Received: "
            f"version={version} in '{path}'. Use the kmod that wrote it, or "
            "make the artifact again with this one."
        )
    if faults := _schema_faults(data, schema):
        raise broken(path, faults)
    return {key: data[key] for key in data if key != "version"}


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Writes plain data as YAML, with the digest of what it says."""
    text = to_yaml({**data, "digest": data_digest(data)})
    path.write_text(text, encoding="utf-8")


def list_sealed(path: Path) -> dict[str, Any]:
    """Lists the files that a sealed manifest names, for `check_output`.

    Args:
        path: The manifest; its `files` are by path from its directory.

    Returns:
        `size` and `digest` of every file and of the manifest, by path.

    Raises:
        ArtifactError: If there is no such file.
        IntegrityError: If it is not as it was written.
    """
    data = read_yaml(path)
    content = dict(data) if isinstance(data, dict) else {}
    digest = content.pop("digest", None)
    if digest is None or digest != data_digest(content):
        raise broken(path, "its content does not match its own digest")
    return {**content["files"], path.name: file_record(path)}


def _schema_faults(data, schema):
    """Returns the first faults in words, or an empty text."""
    errors = list(validator(schema).iter_errors(data))
    return "; ".join(
        f"{error.json_path}: {error.message}"[:MAX_MESSAGE]
        for error in errors[:MAX_FAULTS]
    )
