"""Reads and writes manifests that keep to a JSON schema beside this file."""

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.modules.plain_yaml import broken
from kmod.modules.plain_yaml import read_yaml
from kmod.modules.plain_yaml import to_yaml

VERSION = 1
MAX_FAULTS = 5
MAX_MESSAGE = 200


def write_manifest(path: Path, schema: str, data: dict[str, Any]) -> None:
    """Writes a manifest.

    Args:
        path: File to write.
        schema: Name of its schema, `"store"` or `"module"`.
        data: Plain data, without the version.

    Raises:
        UsageError: If the data breaks the schema.
    """
    data = {"version": VERSION, **data}
    faults = _schema_faults(data, schema)
    if faults:
        raise UsageError(
            f"What goes into '{path.name}' must keep to its schema. "
            f"Received: {faults}."
        )
    path.write_text(to_yaml(data), encoding="utf-8")


def read_manifest(path: Path, schema: str) -> dict[str, Any]:
    """Reads a manifest that `write_manifest` wrote.

    Args:
        path: File to read.
        schema: Name of its schema, `"store"` or `"module"`.

    Returns:
        Plain data, without the version.

    Raises:
        ArtifactError: If there is no such file, or of another version.
        IntegrityError: If it is no YAML, or breaks the schema.
    """
    data = read_yaml(path)
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise ArtifactError(
            f"This kmod reads manifests of version {VERSION}. Received: "
            f"version={version} in '{path}'. Use the kmod that wrote it, or "
            "make the artifact again with this one."
        )
    faults = _schema_faults(data, schema)
    if faults:
        raise broken(path, faults)
    return {key: data[key] for key in data if key != "version"}


def _schema_faults(data, schema):
    """Returns the first faults in words, or an empty text."""
    errors = list(_validator(schema).iter_errors(data))
    return "; ".join(
        f"{error.json_path}: {error.message}"[:MAX_MESSAGE]
        for error in errors[:MAX_FAULTS]
    )


@functools.cache
def _validator(schema):
    file = resources.files("kmod.modules") / f"{schema}.schema.json"
    return jsonschema.Draft202012Validator(
        json.loads(file.read_text(encoding="utf-8"))
    )
