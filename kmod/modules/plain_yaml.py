"""YAML as manifests use it: plain data, of bounded size, without surprises."""

import dataclasses
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.files import data_digest
from kmod.files import file_record

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 16

# The C versions need libyaml, which most builds of PyYAML bring.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_yaml(path: Path) -> Any:
    """Reads a YAML file of one document without tags, anchors and aliases.

    Args:
        path: File of at most 8 MiB.

    Returns:
        Plain data.

    Raises:
        ArtifactError: If there is no such file.
        IntegrityError: If it is too large, too deep, not UTF-8, not YAML, or
            YAML with repeated keys or other features that are not plain data.
    """
    try:
        text = _read_bytes(path).decode("utf-8")
        _check_events(text)
        return yaml.load(text, Loader=_StrictLoader)
    except (ValueError, yaml.YAMLError) as error:
        raise broken(path, " ".join(str(error).split())) from error


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads a YAML file that `write_sealed` wrote.

    Args:
        path: File of at most 8 MiB.

    Returns:
        Its data, without the digest.

    Raises:
        ArtifactError: If there is no such file.
        IntegrityError: If it is not as it was written.
    """
    data = read_yaml(path)
    digest = data.pop("digest", None) if isinstance(data, dict) else None
    if digest is None or digest != data_digest(data):
        raise broken(path, "its content does not match its own digest")
    return data


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
    return {**read_sealed(path)["files"], path.name: file_record(path)}


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Writes plain data as YAML, with the digest of what it says."""
    text = to_yaml({**data, "digest": data_digest(data)})
    path.write_text(text, encoding="utf-8")


def to_yaml(data: Any) -> str:
    """Returns plain data as YAML that `read_yaml` reads back."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
    )


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


def broken(path: Path, reason: str) -> IntegrityError:
    """Returns the error for a file of an artifact that was damaged or edited.

    Args:
        path: The file.
        reason: What is wrong with it, without a full stop.
    """
    return IntegrityError(
        f"'{path}' is not as kmod wrote it: {reason}. Copy the artifact "
        "again, or make it again."
    )


def _read_bytes(path):
    try:
        status = path.lstat()
    except OSError as error:
        raise ArtifactError(
            f"'{path}' can not be read: {error.strerror}. Give the directory "
            "that kmod wrote, whole."
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a link or special file")
    if status.st_size > MAX_BYTES:
        raise ValueError(
            f"{status.st_size} bytes are more than the {MAX_BYTES} allowed"
        )
    return path.read_bytes()


def _check_events(text):
    """Refuses what costs much to construct, before anything is."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if getattr(event, "anchor", None) is not None:
            raise _refusal("anchors and aliases are not allowed", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal("tags are not allowed", event)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _refusal(f"deeper than {MAX_DEPTH} levels", event)


def _refusal(problem, place):
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


class _StrictLoader(_Loader):
    """Refuses repeated keys, merge keys and keys that are not text."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _refusal("keys must be texts", key)
            if key.value in seen:
                raise _refusal(f"key {key.value!r} appears twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
