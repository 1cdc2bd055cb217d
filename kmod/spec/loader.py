"""Reads composition specs and checks them."""

import dataclasses
import functools
from pathlib import Path

import jsonschema

from kmod.spec import rules
from kmod.spec.build import build_spec
from kmod.spec.explain import explain
from kmod.spec.faults import Fault
from kmod.spec.faults import InvalidSpecError
from kmod.spec.model import Spec
from kmod.spec.schema import expanded_schema
from kmod.spec.text import MAX_BYTES
from kmod.spec.yaml_marks import Document
from kmod.spec.yaml_marks import KeyPath
from kmod.spec.yaml_marks import parse


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
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    return parse_spec(content, path)


def parse_spec(content: bytes, path: str | Path) -> Spec:
    """Does what `load_spec` does, for a file's content that is at hand.

    Args:
        content: The YAML text in UTF-8.
        path: Where the file is, or shall be.
    """
    document = parse(content, str(path), _is_text)
    if faults := [*document.faults, *_find_faults(document)]:
        raise InvalidSpecError(path, faults)
    warnings = sorted(rules.find_warnings(document))
    return dataclasses.replace(
        build_spec(document.data, Path(path).resolve()),
        warnings=tuple(warning.located(path) for warning in warnings),
        places=document.values,
    )


def _is_text(path: KeyPath) -> bool:
    """Class names and store ids are taken as written: `no`, `010`."""
    return (
        path[-1:] in (("class",), ("store",))
        or (path[:1] == ("classes",) and path[-1] == "name")
        or path == ("scores", "other", "name")
        or path[:2] == ("base", "classes")
        or (path[:1] == ("patches",) and path[2:3] == ("support",))
    )


def _find_faults(document: Document) -> list[Fault]:
    schema_faults = (
        fault
        for error in _validator().iter_errors(document.data)
        for fault in explain(error, document)
    )
    return [*schema_faults, *rules.find_faults(document)]


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(expanded_schema())
