"""Spec files: reads them, with all their faults, and writes them."""

import codecs
import dataclasses
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from pathlib import PurePath
from typing import Any

import yaml

from kmod.files import atomic_write
from kmod.files.plain_yaml import Document
from kmod.files.plain_yaml import Fault
from kmod.files.plain_yaml import KeyPath
from kmod.files.plain_yaml import RefusedYamlError
from kmod.files.plain_yaml import parse_yaml
from kmod.files.plain_yaml import shorten
from kmod.spec.faults import InvalidSpecError
from kmod.spec.faults import schema_faults
from kmod.spec.model import Spec
from kmod.spec.model import build_spec
from kmod.spec.rules import find_warnings
from kmod.spec.rules import rule_faults

# Every value of a spec is explained, compared with near misses and located,
# so a spec may hold less than what is only read. It is enough for 5000 classes.
MAX_BYTES = 2**20
MAX_VALUES = 25_000

# What YAML allows, less a byte order mark and exotic line breaks.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ufefe\uff00-\ufffd"
    "\U00010000-\U0010ffff]"
)


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

    Example:

    >>> kmod.load_spec("specs/compose_digits.yaml").class_names
    ('0', '1', '7')
    """
    if Path(path).exists() and not (
        Path(path).is_file() or Path(path).is_dir()
    ):
        message = "a spec is a regular file. Received: a pipe or device."
        raise InvalidSpecError(path, [Fault(1, 1, message)])
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    return parse_spec(content, path)


def parse_spec(content: bytes, path: str | Path) -> Spec:
    """Does what `load_spec` does, for a file's content that is at hand.

    Args:
        content: The YAML text in UTF-8.
        path: Where the file is, or shall be.
    """
    try:
        text = _decode(content)
        document = parse_yaml(text, "a spec", _is_text, MAX_VALUES)
    except RefusedYamlError as error:
        raise InvalidSpecError(path, error.faults) from error
    if document.data is None and not document.texts:
        message = "the file is empty. Begin with `version: 1`."
        raise InvalidSpecError(path, [Fault(*document.values[()], message)])
    _rename_old_keys(document)
    faults = (
        *document.faults,
        *_text_faults(document),
        *schema_faults(document),
        *rule_faults(document),
    )
    if faults:
        raise InvalidSpecError(path, faults)
    warnings = sorted(find_warnings(document))
    return dataclasses.replace(
        build_spec(document.data, Path(os.path.realpath(path))),
        warnings=tuple(warning.located(path) for warning in warnings),
        places=document.values,
    )


def _decode(content: bytes) -> str:
    """Decodes UTF-8, with or without a byte order mark."""
    if len(content) > MAX_BYTES:
        _refuse("", f"a spec has at most {MAX_BYTES} bytes. Received: more.")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        byte = content[error.start]
        _refuse(
            before, f"a spec is UTF-8 text. Received: the byte 0x{byte:02x}."
        )
    if bad := _FORBIDDEN.search(text):
        _refuse(
            text[: bad.start()],
            "control characters and byte order marks inside the text are not "
            f"accepted. Received: U+{ord(bad.group()):04X}.",
        )
    return text


def _refuse(before: str, message: str):
    """Refuses a spec for what comes behind the text given."""
    last_line = before.rpartition("\n")[2]
    line, column = before.count("\n") + 1, len(last_line) + 1
    raise RefusedYamlError([Fault(line, column, message)])


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


def _text_faults(document):
    for path, text in document.texts.items():
        if any(unicodedata.category(char) == "Cc" for char in text):
            yield Fault(
                *document.values[path],
                "text is one line without control characters. Received: "
                f"{shorten(text)}.",
            )


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
