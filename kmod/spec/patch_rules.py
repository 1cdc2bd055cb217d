"""Rules between the fields of a spec's patches; see `rules`."""

import itertools
from collections.abc import Iterator

from kmod.spec.explain import accepted
from kmod.spec.explain import did_you_mean
from kmod.spec.explain import dotted
from kmod.spec.faults import shorten
from kmod.spec.yaml_marks import Document
from kmod.spec.yaml_marks import KeyPath

COMBINATIONS = ("calibrated", "minmax", "raw")
KEYS_OF_COMBINATIONS = {
    "range": "minmax",
    "layer": "calibrated",
    "support": "calibrated",
    "coefficients": "calibrated",
}


def _target_is_known(document: Document) -> Iterator[tuple[KeyPath, str]]:
    known = [name for _, name in document.find_texts("base", "classes", ...)]
    for path, name in document.find_texts("patches", ..., "class"):
        if known and name not in known:
            yield path, (
                "a patched class must be one of the base's `classes`. "
                f"Received: {shorten(name)}."
                f"{did_you_mean(name, known)} {accepted(known)}"
            )


def _classes_are_patched_once(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    seen = {}
    for path, name in document.find_texts("patches", ..., "class"):
        first = seen.setdefault(name, path)
        if first != path:
            yield path, (
                f"a class is patched once. Received: {shorten(name)}, which "
                f"line {document.values[first][0]} patches already."
            )


def _combination_has_its_keys(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    for path, patch in document.find(dict, "patches", ...):
        combine = patch.get("combine", "calibrated")
        for key, owner in KEYS_OF_COMBINATIONS.items():
            is_other = combine in COMBINATIONS and combine != owner
            if key in patch and is_other:
                yield (*path, key), (
                    f"`{key}` belongs to `combine: {owner}`. Received: "
                    f"combine {combine}. Remove it, or write {owner}."
                )


def _layers_fit_the_base(document: Document) -> Iterator[tuple[KeyPath, str]]:
    classes = document.find_texts("base", "classes", ...)
    count = len(list(classes))
    keys = ("module",), ("weak",), ("bias",), ("support", ...)
    found = (document.find(list, "patches", ..., "layer", *key) for key in keys)
    for path, weights in itertools.chain(*found):
        if count and len(weights) != count:
            yield path, (
                f"{dotted(path)} must have one number for each of the base's "
                f"{count} classes. Received: {len(weights)}."
            )


def _layers_fit_the_patch(
    document: Document,
) -> Iterator[tuple[KeyPath, str]]:
    for path, patch in document.find(dict, "patches", ...):
        layer, support = patch.get("layer", {}), patch.get("support", [])
        given = layer.get("support", []) if isinstance(layer, dict) else []
        if all(isinstance(each, list) for each in (support, given)):
            if len(support) != len(given):
                yield (*path, "support" if support else "layer"), (
                    "a patch has one list in `layer.support` for each class "
                    f"of `support`. Received: {len(given)} lists for "
                    f"{len(support)} classes."
                )
        if "layer" in patch and "coefficients" in patch:
            yield (*path, "coefficients"), (
                "a patch has `layer` or `coefficients`. Received: both. "
                "Remove one."
            )


PATCH_RULES = (
    _target_is_known,
    _classes_are_patched_once,
    _combination_has_its_keys,
    _layers_fit_the_base,
    _layers_fit_the_patch,
)
