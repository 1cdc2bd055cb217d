"""Rules between the fields of a spec, which a JSON Schema can not express.

They look at raw data, so that they find their faults also in a spec that
breaks the schema elsewhere.
"""

import unicodedata
from collections.abc import Iterator

from kmod.spec.explain import accepted
from kmod.spec.explain import did_you_mean
from kmod.spec.faults import Fault
from kmod.spec.faults import shorten
from kmod.spec.yaml_marks import Document
from kmod.spec.yaml_marks import KeyPath


def find_faults(document: Document) -> list[Fault]:
    """Finds everything that breaks a rule between fields."""
    return [
        Fault(*document.values[path], message)
        for rule in FAULT_RULES
        for path, message in rule(document)
    ]


def find_warnings(document: Document) -> list[Fault]:
    """Finds what looks like a mistake but does no harm."""
    used = {store for _, store in _used_stores(document)}
    return [
        Fault(
            *document.keys["stores", store],
            f"warning: no module is taken from store {shorten(store)}.",
        )
        for store in _store_ids(document)
        if store not in used
    ]


def _class_names_differ(document: Document) -> Iterator[tuple[KeyPath, str]]:
    first_paths = {}
    names = (
        *document.find_texts("classes", ..., "name"),
        *document.find_texts("scores", "other", "name"),
        *document.find_texts("base", "classes", ...),
    )
    for path, name in names:
        # Two spellings of one accented letter look the same.
        spelling = unicodedata.normalize("NFC", name)
        first = first_paths.setdefault(spelling, path)
        if first != path:
            line, _ = document.values[first]
            yield path, (
                f"class names must differ. Received: {shorten(name)}, which "
                f"line {line} has already."
            )


def _stores_are_known(document: Document) -> Iterator[tuple[KeyPath, str]]:
    known = _store_ids(document)
    for path, store in _used_stores(document):
        if store not in known:
            yield path, (
                f"unknown store {shorten(store)}."
                f"{did_you_mean(store, known)} {accepted(known)}"
            )


def _target_is_known(document: Document) -> Iterator[tuple[KeyPath, str]]:
    known = [name for _, name in document.find_texts("base", "classes", ...)]
    for path, name in document.find_texts("patches", ..., "class"):
        if known and name not in known:
            yield path, (
                "a patched class must be one of the base's `classes`. "
                f"Received: {shorten(name)}."
                f"{did_you_mean(name, known)} {accepted(known)}"
            )


def _store_ids(document: Document) -> list[str]:
    stores = [path for path in document.keys if path[:-1] == ("stores",)]
    return [path[-1] for path in stores]


def _used_stores(document: Document) -> list[tuple[KeyPath, str]]:
    return [
        *document.find_texts("classes", ..., "module", "store"),
        *document.find_texts("classes", ..., "any_of", ..., "store"),
        *document.find_texts("patches", ..., "module", "store"),
    ]


FAULT_RULES = (_class_names_differ, _stores_are_known, _target_is_known)
