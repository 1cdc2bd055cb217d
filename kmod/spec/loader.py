"""Reads composition specs and checks them."""

import functools
from pathlib import Path
from typing import Any

import jsonschema

from kmod.spec import rules
from kmod.spec.explain import explain
from kmod.spec.faults import Fault
from kmod.spec.faults import InvalidSpecError
from kmod.spec.model import BaseModel
from kmod.spec.model import ClassEntry
from kmod.spec.model import Coefficients
from kmod.spec.model import ModuleRef
from kmod.spec.model import PatchEntry
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef
from kmod.spec.schema import read_schema
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
    return _build(
        document.data,
        Path(path).resolve(),
        tuple(warning.located(path) for warning in warnings),
    )


def _is_text(path: KeyPath) -> bool:
    """Class names and store ids are taken as written: `no`, `010`."""
    return (
        path[-1:] in (("class",), ("store",))
        or (path[:1] == ("classes",) and path[-1] == "name")
        or path[:2] == ("base", "classes")
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
    return jsonschema.Draft202012Validator(read_schema())


def _build(data: dict[str, Any], path: Path, warnings: tuple[str, ...]) -> Spec:
    base = data.get("base")
    return Spec(
        name=data["name"],
        path=path,
        stores={
            store: StoreRef(_resolve(ref["path"], path), ref.get("digest"))
            for store, ref in data["stores"].items()
        },
        license=data.get("license"),
        classes=tuple(
            ClassEntry(entry["name"], _module(entry))
            for entry in data.get("classes", ())
        ),
        calibration=data.get("scores", {}).get("calibration", "stored"),
        base=base
        and BaseModel(_resolve(base["path"], path), tuple(base["classes"])),
        patches=tuple(_patch(entry) for entry in data.get("patches", ())),
        warnings=warnings,
    )


def _resolve(relative: str, spec_path: Path) -> Path:
    return (spec_path.parent / relative).resolve()


def _module(entry: dict[str, Any]) -> ModuleRef:
    return ModuleRef(entry["module"]["store"], entry["module"]["class"])


def _patch(entry: dict[str, Any]) -> PatchEntry:
    coefficients = entry.get("coefficients")
    return PatchEntry(
        class_name=entry["class"],
        module=_module(entry),
        combine=entry.get("combine", "calibrated"),
        coefficients=coefficients and Coefficients(**coefficients),
    )
