"""Spec files: reads them, with all their faults, and writes them."""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from pathlib import PurePath
from typing import Any

import yaml

from kmod.files import atomic_write
from kmod.files.plain_yaml import Document
from kmod.files.plain_yaml import KeyPath
from kmod.spec.documents import parse_document
from kmod.spec.documents import read_content
from kmod.spec.documents import text_faults
from kmod.spec.faults import InvalidSpecError
from kmod.spec.faults import schema_faults
from kmod.spec.model import Check
from kmod.spec.model import Spec
from kmod.spec.model import build_checks
from kmod.spec.model import build_spec
from kmod.spec.rules import find_warnings
from kmod.spec.rules import rule_faults


def load_spec(path: str | Path) -> Spec:
    """Loads a composition spec.

    Only the file itself is read: whether its stores exist and fit is the
    composer's question.

    Args:
        path: YAML file. Its relative paths are resolved against its folder.

    Returns:
        The spec as frozen data.

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidSpecError: If the spec is not valid, a `SpecError`. The message
            has one line for every fault, in file order, each beginning with
            `file:line:column:`.
        UsageError: If `path` is none, such as the content of a spec.

    Example:

    >>> kmod.load_spec("specs/compose_digits.yaml").class_names
    ('0', '1', '7')
    """
    return parse_spec(read_content(path, "a spec"), path)


def load_checks(path: str | Path) -> tuple[Check, ...]:
    """Loads a contract: a YAML file of `version` and `checks`, as in a spec.

    Args:
        path: YAML file. Its relative paths are resolved against its folder.

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidSpecError: If it is not valid, as `load_spec`.
    """
    content = read_content(path, "a contract")
    document = _parsed(
        content, path, "a contract", "the contract", ("version", "checks")
    )
    entries = document.data["checks"]
    return build_checks(entries, Path(os.path.realpath(path)))


def parse_spec(content: bytes, path: str | Path) -> Spec:
    """Does what `load_spec` does, for a file's content that is at hand.

    Args:
        content: The YAML text in UTF-8.
        path: Where the file is, or shall be.
    """
    document = _parsed(content, path, "a spec", "the spec")
    warnings = sorted(find_warnings(document))
    return dataclasses.replace(
        build_spec(document.data, Path(os.path.realpath(path))),
        warnings=tuple(warning.located(path) for warning in warnings),
        places=document.values,
    )


def _parsed(content, path, what, whole, keys=None):
    document = parse_document(content, path, what, _is_text)
    _rename_old_keys(document)
    faults = (
        *document.faults,
        *text_faults(document),
        *schema_faults(document, what=whole, keys=keys),
        *rule_faults(document),
    )
    if faults:
        raise InvalidSpecError(path, faults)
    return document


def _is_text(path: KeyPath, value: Any) -> bool:
    """Class names and store ids are taken as written: `no`, `010`.

    A number that is not finite stays text, which no rule takes for a number.
    """
    return (
        path[-1:] in (("class",), ("store",))
        or (path[:1] == ("classes",) and path[-1] == "name")
        or path == ("scores", "other", "name")
        or path[:2] == ("base", "classes")
        or (path[:1] == ("patches",) and path[2:3] == ("auxiliary",))
        or (path[:1] == ("patches",) and path[2:3] == ("support",))
        or (isinstance(value, float) and not math.isfinite(value))
    )


def _rename_old_keys(document: Document) -> None:
    """Reads `support` as `auxiliary`, which it was called at first.

    The places of what it holds stay those in the file. A mapping that has
    both keys is left alone: `support` is an unknown key of it then.
    """
    old = set()
    for parent in ("scores",), ("patches", ...), ("patches", ..., "layer"):
        for path, mapping in document.find(dict, *parent):
            if "support" in mapping and "auxiliary" not in mapping:
                mapping["auxiliary"] = mapping.pop("support")
                old.add((*path, "support"))
    for places in (document.keys, document.values, document.texts):
        for path in list(places) if old else ():
            for parent in {path[:end] for end in (2, 3, 4)} & old:
                rest = path[len(parent) :]
                places[(*parent[:-1], "auxiliary", *rest)] = places.pop(path)


def write_spec(
    spec_dict: Mapping[str, Any],
    path: str | Path,
    schema_path: str | None = None,
) -> Spec:
    """Writes a composition spec as YAML, after checking it.

    Args:
        spec_dict: The spec as plain data, keys in the order they shall have.
            `pathlib` paths in it are written relative to the spec's folder.
        path: File to write.
        schema_path: Where an editor finds the JSON Schema, as seen from the
            spec's folder; written as the first line. Defaults to `None`: no
            such line.

    Returns:
        The spec as `load_spec` would read it.

    Raises:
        SpecError: If the spec is not valid. Nothing is written then.
    """
    text = spec_text(spec_dict, path)
    if schema_path is not None:
        text = f"# yaml-language-server: $schema={schema_path}\n{text}"
    content = text.encode("utf-8")
    spec = parse_spec(content, path)
    atomic_write(path, content)
    return spec


def spec_text(spec_dict: Mapping[str, Any], path: str | Path) -> str:
    """Returns a composition spec as YAML.

    Args:
        spec_dict: As `write_spec` takes it.
        path: File that the text is for.
    """
    folder = Path(os.path.realpath(path)).parent
    return yaml.dump(
        _plain(spec_dict, folder),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=float("inf"),
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True  # A spec has no anchors; equal parts are written out.


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, folder) for item in value]
    if isinstance(value, PurePath):
        relative = os.path.relpath(os.path.realpath(value), folder)
        text = Path(relative).as_posix()
        # What looks like a URL or a drive is none behind `./`.
        return f"./{text}" if ":" in text.partition("/")[0] else text
    return value
