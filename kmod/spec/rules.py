"""Rules between the fields of a spec, which a JSON Schema can not express.

They look at raw data, so that they find their faults also in a spec that
breaks the schema elsewhere.
"""

import unicodedata
from collections.abc import Iterator

from kmod.spec.explain import accepted
from kmod.spec.explain import did_you_mean
from kmod.spec.explain import dotted
from kmod.spec.faults import Fault
from kmod.spec.faults import shorten
from kmod.spec.patch_rules import PATCH_RULES
from kmod.spec.spdx import FAMILY_OF
from kmod.spec.spdx import LicenseSyntaxError
from kmod.spec.spdx import parse_license
from kmod.spec.yaml_marks import Document
from kmod.spec.yaml_marks import KeyPath
from kmod.spec.yaml_marks import Place


def find_faults(document: Document) -> list[Fault]:
    """Finds everything that breaks a rule between fields."""
    return [
        Fault(*document.values[path], message)
        for rule in FAULT_RULES
        for path, message in rule(document)
    ]


def find_warnings(document: Document) -> list[Fault]:
    """Finds what looks like a mistake but does no harm."""
    return [
        Fault(*place, f"warning: {message}")
        for rule in WARNING_RULES
        for place, message in rule(document)
    ]


def _class_names_differ(document: Document) -> Iterator[tuple[KeyPath, str]]:
    first_paths = {}
    for path, name in _class_names(document):
        # Two spellings of one accented letter look the same.
        spelling = unicodedata.normalize("NFC", name)
        first = first_paths.setdefault(spelling, path)
        if first != path:
            line, _ = document.values[first]
            yield path, (
                f"class names must differ. Received: {shorten(name)}, which "
                f"line {line} has already. One class may have several modules "
                "in `any_of`."
            )


def _stores_are_known(document: Document) -> Iterator[tuple[KeyPath, str]]:
    known = _store_ids(document)
    for path, store in _used_stores(document):
        if store not in known:
            yield path, (
                f"unknown store {shorten(store)}."
                f"{did_you_mean(store, known)} {accepted(known)}"
            )


def _modules_of_a_class_differ(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    for path, modules in document.find(list, "classes", ..., "any_of"):
        for index, module in enumerate(modules):
            if module in modules[:index]:
                yield (*path, index), (
                    "the modules of `any_of` must differ. Received: the same "
                    f"as item {modules.index(module)}."
                )


def _supporting_modules_differ(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    own = [
        module for _, module in document.find(dict, "classes", ..., "module")
    ]
    for path, modules in document.find(list, "scores", "support"):
        for index, module in enumerate(modules):
            if module in own or module in modules[:index]:
                yield (*path, index), (
                    "the modules of `scores.support` must differ from each "
                    "other and from those of the classes, whose scores count "
                    "anyway. Received: the same again. Remove it."
                )


def _ranges_rise(document: Document) -> Iterator[tuple[KeyPath, str]]:
    ranges = (
        *document.find(list, "input", "range"),
        *document.find(list, "patches", ..., "range"),
    )
    for path, limits in ranges:
        if all(map(_is_number, limits)) and limits != sorted(set(limits)):
            yield path, (
                f"{dotted(path)} must be two numbers, the smaller one first. "
                f"Received: {limits}."
            )


def _calibration_has_its_keys(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    for path, scores in document.find(dict, "scores"):
        calibration = scores.get("calibration", "stored")
        if calibration in ("stored", "none"):
            for key in ("data", "images_per_class"):
                if key in scores:
                    yield (*path, key), (
                        f"`{key}` belongs to the calibrations fit and joint. "
                        f"Received: calibration {calibration}. Remove it, or "
                        "write one of these."
                    )
        if calibration != "joint" and "support" in scores:
            yield (*path, "support"), (
                "`support` belongs to the calibration joint, whose layer "
                "weighs further scores as well. Received: calibration "
                f"{calibration}. Remove it, or write joint."
            )
        if calibration in ("none", "joint") and "other" in scores:
            yield (*path, "other"), (
                "`other` compares each class's own probability with its "
                "threshold, so it needs a calibration of every class by "
                "itself. Accepted: stored, fit. Received: calibration "
                f"{calibration}."
            )


def _checked_classes_are_known(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    known = [name for _, name in _class_names(document)]
    for path, name in document.find_texts("checks", ..., "class"):
        if known and name not in known:
            yield path, (
                "a check is of one of the spec's classes. Received: "
                f"{shorten(name)}.{did_you_mean(name, known)} "
                f"{accepted(known)}"
            )


def _license_is_an_expression(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    for path, text in document.find_texts("license"):
        try:
            parse_license(text)
        except LicenseSyntaxError as error:
            near = did_you_mean(text.replace(" ", "-"), FAMILY_OF)
            yield path, (
                "`license` must be an SPDX expression, such as Apache-2.0 or "
                f"MIT OR GPL-3.0-only. Received: {shorten(text)}, {error}."
                f"{near}"
            )


def _stores_are_used(document: Document) -> Iterator[tuple[Place, str]]:
    used = {store for _, store in _used_stores(document)}
    for store in _store_ids(document):
        if store not in used:
            yield document.keys["stores", store], (
                f"no module is taken from store {shorten(store)}."
            )


def _classes_have_modules_of_their_own(
    document: Document,
) -> Iterator[tuple[Place, str]]:
    seen = {}
    modules = (
        *document.find(dict, "classes", ..., "module"),
        *document.find(dict, "classes", ..., "any_of", ...),
    )
    for path, module in modules:
        first = seen.setdefault((module["store"], module["class"]), path)
        if first[1] != path[1]:
            yield document.values[path], (
                "two classes have this module, which can not tell them "
                f"apart. The other one is in line {document.values[first][0]}."
            )


def _license_is_known(document: Document) -> Iterator[tuple[Place, str]]:
    for path, text in document.find_texts("license"):
        for identifier in sorted(frozenset().union(*parse_license(text))):
            if identifier not in FAMILY_OF:
                yield document.values[path], (
                    f"the licence {shorten(identifier)} is not known here."
                    f"{did_you_mean(identifier, FAMILY_OF)}"
                )


def _class_names(document: Document) -> list[tuple[KeyPath, str]]:
    return [
        *document.find_texts("classes", ..., "name"),
        *document.find_texts("scores", "other", "name"),
        *document.find_texts("base", "classes", ...),
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _store_ids(document: Document) -> list[str]:
    stores = [path for path in document.keys if path[:-1] == ("stores",)]
    return [path[-1] for path in stores]


def _used_stores(document: Document) -> list[tuple[KeyPath, str]]:
    return [
        *document.find_texts("classes", ..., "module", "store"),
        *document.find_texts("classes", ..., "any_of", ..., "store"),
        *document.find_texts("scores", "support", ..., "store"),
        *document.find_texts("patches", ..., "module", "store"),
    ]


FAULT_RULES = (
    _license_is_an_expression,
    _class_names_differ,
    _stores_are_known,
    _modules_of_a_class_differ,
    _supporting_modules_differ,
    _ranges_rise,
    _calibration_has_its_keys,
    *PATCH_RULES,
    _checked_classes_are_known,
)
# They look at specs without faults.
WARNING_RULES = (
    _license_is_known,
    _stores_are_used,
    _classes_have_modules_of_their_own,
)
