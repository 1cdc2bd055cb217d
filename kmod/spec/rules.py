"""Rules between the fields of a spec, which a JSON Schema can not express.

They look at raw data, so that they find their faults also in a spec that
breaks the schema elsewhere.
"""

import itertools
import unicodedata
from collections.abc import Iterator

from kmod.files.plain_yaml import Document
from kmod.files.plain_yaml import Fault
from kmod.files.plain_yaml import KeyPath
from kmod.files.plain_yaml import Place
from kmod.files.plain_yaml import shorten
from kmod.files.remote import SCHEMES
from kmod.files.remote import is_url
from kmod.spec.faults import accepted
from kmod.spec.faults import did_you_mean
from kmod.spec.faults import dotted
from kmod.spec.licences import LicenseSyntaxError
from kmod.spec.licences import known_licences
from kmod.spec.licences import parse_license
from kmod.spec.model import QUALITIES

ROUNDING = 0.01  # How far shares may be from 1 in sum.
CALIBRATIONS = ("stored", "unlabelled", "none", "fit", "joint")
OWNERS_OF_KEYS = {
    "data": ("unlabelled", "fit", "joint"),
    "images_per_class": ("fit", "joint"),
    "familiarity": ("stored", "unlabelled", "fit", "joint"),
}
COMBINATIONS = ("calibrated", "divided", "minmax", "raw")
KEYS_OF_COMBINATIONS = {
    "range": ("minmax",),
    "layer": ("calibrated", "divided"),
    "auxiliary": ("calibrated", "divided"),
    "weak_share": ("divided",),
}

KEYS_OF_METRICS = {
    "min": (*QUALITIES, "score_range"),
    "max": ("invariance", "score_range", "exactness", "rejection", "latency"),
    "data": (*QUALITIES, "invariance", "score_range", "rejection"),
    "class": (*QUALITIES, "invariance", "score_range", "exactness", "latency"),
    "shift": ("invariance",),
    "flip": ("invariance",),
}
METRICS = (*QUALITIES, *KEYS_OF_METRICS["max"])

Broken = Iterator[tuple[KeyPath, str]]  # Where in the spec, and what to say.
Doubtful = Iterator[tuple[Place, str]]


def rule_faults(document: Document) -> list[Fault]:
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


def _license_is_an_expression(document: Document) -> Broken:
    for path, text in document.find_texts("license"):
        try:
            parse_license(text)
        except LicenseSyntaxError as error:
            near = did_you_mean(
                text.replace(" ", "-"), known_licences().values()
            )
            yield path, (
                "`license` must be an SPDX expression, such as Apache-2.0 or "
                f"MIT OR GPL-3.0-only. Received: {shorten(text)}, {error}."
                f"{near}"
            )


def _class_names_differ(document: Document) -> Broken:
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


def _stores_are_known(document: Document) -> Broken:
    known = _store_ids(document)
    for path, store in _used_stores(document):
        if store not in known:
            yield path, (
                f"unknown store {shorten(store)}."
                f"{did_you_mean(store, known)} {accepted(known)}"
            )


def _stores_at_urls_are_pinned(document: Document) -> Broken:
    for path, store in document.find(dict, "stores", ...):
        url = store.get("path")
        is_read = is_url(url) and url.partition(":")[0] in SCHEMES
        if is_read and "digest" not in store:
            yield path, (
                "a store at a URL has a `digest`, so that nobody can put "
                f"another in its place. Received: {shorten(url)} without. "
                "`kmod inspect URL` says which it has."
            )


def _modules_of_a_class_differ(document: Document) -> Broken:
    for path, modules in document.find(list, "classes", ..., "any_of"):
        for index, module in enumerate(modules):
            if module in modules[:index]:
                yield (*path, index), (
                    "the modules of `any_of` must differ. Received: the same "
                    f"as item {modules.index(module)}."
                )


def _auxiliary_modules_differ(document: Document) -> Broken:
    own = [
        module for _, module in document.find(dict, "classes", ..., "module")
    ]
    for path, modules in document.find(list, "scores", "auxiliary"):
        for index, module in enumerate(modules):
            if module in own or module in modules[:index]:
                yield (*path, index), (
                    "the modules of `scores.auxiliary` must differ from each "
                    "other and from those of the classes, whose scores count "
                    "anyway. Received: the same again. Remove it."
                )


def _ranges_rise(document: Document) -> Broken:
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


def _calibration_has_its_keys(document: Document) -> Broken:
    for path, scores in document.find(dict, "scores"):
        calibration = scores.get("calibration", "stored")
        for key, owners in OWNERS_OF_KEYS.items():
            is_other = calibration in CALIBRATIONS and calibration not in owners
            if key in scores and is_other:
                yield (*path, key), (
                    f"`{key}` belongs to the calibrations "
                    f"{', '.join(owners[:-1])} and {owners[-1]}. Received: "
                    f"calibration {calibration}. Remove it, or write one of "
                    "these."
                )
        if calibration != "joint" and "auxiliary" in scores:
            yield (*path, "auxiliary"), (
                "`auxiliary` belongs to the calibration joint, whose layer "
                "weighs further scores as well. Received: calibration "
                f"{calibration}. Remove it, or write joint."
            )
        other = scores.get("other")
        if calibration == "none" and other is not None:
            yield (*path, "other"), (
                "`other` needs scores that are calibrated. Accepted: stored, "
                "unlabelled, fit, joint. Received: calibration none."
            )
        is_compared = isinstance(other, dict) and "threshold" in other
        if calibration == "joint" and is_compared:
            yield (*path, "other", "threshold"), (
                "`other.threshold` is compared with each class's own "
                "probability, so it needs a calibration of every class by "
                "itself. Accepted: stored, unlabelled, fit. Received: "
                "calibration joint. "
                "Take `reject` instead, or one of these."
            )


def _prior_fits_the_scores(document: Document) -> Broken:
    classes = [name for _, name in document.find_texts("classes", ..., "name")]
    for path, scores in document.find(dict, "scores"):
        prior = scores.get("prior")
        calibration = scores.get("calibration")
        if prior is not None and calibration in ("none", "unlabelled"):
            yield (*path, "prior"), (
                "`prior` belongs to calibrated scores, which depend on how "
                f"frequent classes are. Received: calibration {calibration}. "
                "Remove it, or write one of stored, fit, joint."
            )
        if isinstance(prior, dict) and classes:
            has_other = "other" in scores
            yield from _share_faults(
                (*path, "prior"), prior, classes, has_other
            )


def _share_faults(path, prior, classes, has_other):
    """Holds the shares of a prior against the classes of the spec."""
    unknown = [name for name in prior if name not in classes]
    for name in unknown:
        yield (*path, name), (
            "`scores.prior` has shares of the spec's `classes`; what is left "
            f"is that of `other`. Received: {shorten(name)}."
            f"{did_you_mean(name, classes)} {accepted(classes)}"
        )
    missing = [name for name in classes if name not in prior]
    if len(missing) > len(unknown):  # Else they are misspelt.
        yield path, (
            "`scores.prior` must have a share of every class. Received: none "
            f"of {', '.join(map(shorten, missing[:20]))}. Add them, or write "
            "even."
        )
    elif not unknown and all(_is_share(share) for share in prior.values()):
        total = sum(prior.values())
        if has_other and total >= 1:
            yield path, (
                "the shares of `scores.prior` must add up to less than 1, "
                "since images of `other` have what is left. Received: a sum "
                f"of {total:g}. Make the shares smaller."
            )
        elif not has_other and abs(total - 1) > ROUNDING:
            yield path, (
                "the shares of `scores.prior` must add up to 1, give or take "
                f"{ROUNDING}. Received: a sum of {total:g}. Divide each by "
                "the sum."
            )


def _patched_classes_are_known(document: Document) -> Broken:
    known = [name for _, name in document.find_texts("base", "classes", ...)]
    for path, name in document.find_texts("patches", ..., "class"):
        if known and name not in known:
            yield path, (
                "a patched class must be one of the base's `classes`. "
                f"Received: {shorten(name)}."
                f"{did_you_mean(name, known)} {accepted(known)}"
            )


def _classes_are_patched_once(document: Document) -> Broken:
    seen = {}
    for path, name in document.find_texts("patches", ..., "class"):
        first = seen.setdefault(name, path)
        if first != path:
            yield path, (
                f"a class is patched once. Received: {shorten(name)}, which "
                f"line {document.values[first][0]} patches already."
            )


def _combination_has_its_keys(document: Document) -> Broken:
    for path, patch in document.find(dict, "patches", ...):
        combine = patch.get("combine", "calibrated")
        for key, owners in KEYS_OF_COMBINATIONS.items():
            is_other = combine in COMBINATIONS and combine not in owners
            if key in patch and is_other:
                accepted = " or ".join(owners)
                yield (*path, key), (
                    f"`{key}` belongs to `combine: {accepted}`. Received: "
                    f"combine {combine}. Remove it, or write {accepted}."
                )


def _auxiliary_classes_of_a_patch_differ(document: Document) -> Broken:
    for path, patch in document.find(dict, "patches", ...):
        module = patch.get("module")
        if patch.get("combine", "calibrated") != "calibrated":
            continue
        found = [module.get("class")] if isinstance(module, dict) else []
        for place, name in document.find_texts(*path, "auxiliary", ...):
            if name in found:
                yield place, (
                    "the classes of `auxiliary` must differ from each other "
                    "and from the module's own, whose score counts anyway. "
                    f"Received: {shorten(name)} again. Remove it, and its "
                    "list in `layer`."
                )
            found.append(name)


def _divided_classes_are_known(document: Document) -> Broken:
    known = [name for _, name in document.find_texts("base", "classes", ...)]
    for path, patch in document.find(dict, "patches", ...):
        if patch.get("combine") != "divided":
            continue
        if "auxiliary" not in patch:
            yield (*path, "combine"), (
                "`combine: divided` takes `auxiliary`, the other classes that "
                "the modules decide among. Received: none. Name them, or write "
                "calibrated."
            )
        others = [name for name in known if name != patch.get("class")]
        for place, name in document.find_texts(*path, "auxiliary", ...):
            if name not in others:
                yield place, (
                    "with `combine: divided`, `auxiliary` has other classes "
                    f"of the base, each once. Received: {name!r}. Accepted "
                    f"here: {others}."
                )
            else:
                others.remove(name)


def _layers_fit_the_base(document: Document) -> Broken:
    count = len(list(document.find_texts("base", "classes", ...)))
    keys = ("module",), ("weak",), ("bias",), ("undivided",)
    keys += ("auxiliary", ...), ("undivided", ...)
    found = (document.find(list, "patches", ..., "layer", *key) for key in keys)
    for path, weights in itertools.chain(*found):
        if count and len(weights) != count:
            what = "list" if path[-1] == "undivided" else "number"
            yield path, (
                f"{dotted(path)} must have one {what} for each of the base's "
                f"{count} classes. Received: {len(weights)}."
            )


def _layers_fit_the_patch(document: Document) -> Broken:
    for path, patch in document.find(dict, "patches", ...):
        layer, auxiliary = patch.get("layer", {}), patch.get("auxiliary", [])
        given = layer.get("auxiliary", []) if isinstance(layer, dict) else []
        is_divided = patch.get("combine") == "divided"
        is_alone = is_divided and "layer" not in patch
        if not is_divided and isinstance(layer, dict) and "undivided" in layer:
            yield (*path, "layer", "undivided"), (
                "`layer.undivided` belongs to `combine: divided`. Received: "
                f"combine: {patch.get('combine', 'calibrated')}. Leave it out."
            )
        if all(isinstance(each, list) for each in (auxiliary, given)):
            if not is_alone and len(auxiliary) != len(given):
                yield (*path, "auxiliary" if auxiliary else "layer"), (
                    "a patch has one list in `layer.auxiliary` for each class "
                    f"of `auxiliary`. Received: {len(given)} lists for "
                    f"{len(auxiliary)} classes."
                )


def _checked_classes_are_known(document: Document) -> Broken:
    known = [name for _, name in _class_names(document)]
    for path, name in document.find_texts("checks", ..., "class"):
        if known and name not in known:
            yield path, (
                "a check is of one of the spec's classes. Received: "
                f"{shorten(name)}.{did_you_mean(name, known)} "
                f"{accepted(known)}"
            )


def _checks_have_their_keys(document: Document) -> Broken:
    for path, check in document.find(dict, "checks", ...):
        metric = check.get("metric")
        for key, owners in KEYS_OF_METRICS.items():
            if key in check and metric in METRICS and metric not in owners:
                yield (*path, key), (
                    f"`{key}` does not belong to a check of {metric}. It "
                    f"belongs to {', '.join(owners)}. Remove it."
                )
        if metric == "invariance" and ("shift" in check) == ("flip" in check):
            yield path, (
                "a check of invariance says what images are changed by: "
                "either `shift` or `flip`. Received: "
                f"{'both' if 'shift' in check else 'neither'}. Write one "
                "check for each."
            )
        low, high = check.get("min"), check.get("max")
        if _is_number(low) and _is_number(high) and low >= high:
            yield (*path, "max"), (
                "`max` must be above `min`. Received: "
                f"min {low:g}, max {high:g}."
            )


def _rejection_has_a_class(document: Document) -> Broken:
    is_spec = isinstance(document.data, dict) and "stores" in document.data
    if is_spec and not list(document.find(dict, "scores", "other")):
        for path, check in document.find(dict, "checks", ...):
            if check.get("metric") == "rejection":
                yield (*path, "metric"), (
                    "only a model with a class `other` refuses images. "
                    "Received: a check of rejection without "
                    "`scores.other`. Write that, or remove the check."
                )


def _licences_are_known(document: Document) -> Doubtful:
    known = known_licences().values()
    for path, text in document.find_texts("license"):
        for identifier in sorted(frozenset().union(*parse_license(text))):
            if identifier not in known:
                yield document.values[path], (
                    f"the licence {shorten(identifier)} is not known here."
                    f"{did_you_mean(identifier, known)}"
                )


def _stores_are_used(document: Document) -> Doubtful:
    used = {store for _, store in _used_stores(document)}
    for store in _store_ids(document):
        if store not in used:
            yield document.keys["stores", store], (
                f"no module is taken from store {shorten(store)}."
            )


def _classes_have_modules_of_their_own(document: Document) -> Doubtful:
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


def _class_names(document):
    return [
        *document.find_texts("classes", ..., "name"),
        *document.find_texts("scores", "other", "name"),
        *document.find_texts("base", "classes", ...),
    ]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_share(value):
    return _is_number(value) and 0 < value < 1


def _store_ids(document):
    return [path[1] for path in document.keys if path[:-1] == ("stores",)]


def _used_stores(document):
    return [
        *document.find_texts("classes", ..., "module", "store"),
        *document.find_texts("classes", ..., "any_of", ..., "store"),
        *document.find_texts("scores", "auxiliary", ..., "store"),
        *document.find_texts("patches", ..., "module", "store"),
    ]


FAULT_RULES = (
    _license_is_an_expression,
    _class_names_differ,
    _stores_are_known,
    _stores_at_urls_are_pinned,
    _modules_of_a_class_differ,
    _auxiliary_modules_differ,
    _ranges_rise,
    _calibration_has_its_keys,
    _prior_fits_the_scores,
    _patched_classes_are_known,
    _classes_are_patched_once,
    _combination_has_its_keys,
    _auxiliary_classes_of_a_patch_differ,
    _divided_classes_are_known,
    _layers_fit_the_base,
    _layers_fit_the_patch,
    _checked_classes_are_known,
    _checks_have_their_keys,
    _rejection_has_a_class,
)
# They look at specs without faults.
WARNING_RULES = (
    _licences_are_known,
    _stores_are_used,
    _classes_have_modules_of_their_own,
)
