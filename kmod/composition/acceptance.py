"""Runs the acceptance tests of saved stores and composed models."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kmod.composition.checks import measure
from kmod.composition.labelled_images import ImageReader
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.manifest import COMPOSITION_FILE
from kmod.composition.manifest import read_composition_manifest
from kmod.composition.saving import KERAS_FILE
from kmod.composition.saving import load_composition
from kmod.errors import ArtifactError
from kmod.export.images import comparison_images
from kmod.export.savedmodel import ask as ask_savedmodel
from kmod.export.write import FORMS
from kmod.export.write import TOLERANCE
from kmod.export.write import largest_gap
from kmod.files import check_files
from kmod.modules.cut import log_odds_model
from kmod.modules.decompose import module_metrics
from kmod.modules.module_store import load_store
from kmod.spec.model import Check
from kmod.spec.model import DataRef

# How far a figure may be from the recorded one: other hardware may round
# another way, and move an image that lies on a border.
METRIC_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Finding:
    """What an acceptance test found.

    Attributes:
        test: What was tested.
        outcome: `"skipped"` if it could not be run, which is no fault.
        detail: The figures, or why it was skipped.
    """

    test: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str


def accept(
    path: str | Path, data_dir: str | Path | None = None
) -> Iterator[Finding]:
    """Tests a module store or a composed model.

    Digests come first; then every saved form is asked for the answers to real
    images; then the figures in the manifest are measured again, as far as the
    data sets that they name are at hand.

    Args:
        path: Directory of the store or composed model.
        data_dir: Directory of the prepared data sets.

    Yields:
        What each test found.

    Raises:
        ArtifactError: If there is neither a store nor a composed model.
        IntegrityError: If it is not as it was written.
    """
    path = Path(path)
    if (path / COMPOSITION_FILE).is_file():
        yield from _test_composition(path, data_dir)
    else:
        yield from _test_store(load_store(path), data_dir)


def _test_composition(path, data_dir):
    manifest = read_composition_manifest(path)
    check_files(path, manifest.files, COMPOSITION_FILE)
    yield Finding("digests", "passed", f"{len(manifest.files)} files")
    if KERAS_FILE not in manifest.files:
        yield Finding("answers", "skipped", f"there is no '{KERAS_FILE}'")
        return
    model = load_composition(path)
    images = comparison_images(manifest.input)
    for name, form in FORMS.items():
        if (path / form.path).exists():
            gap = largest_gap(model, form.ask, path / form.path, images)
            yield _same_answers(f"answers of {name}", gap)
    for recorded in manifest.metrics.get("checks", ()):
        yield _same_check(
            model, recorded, reader_of_manifest(manifest), data_dir
        )


def _test_store(store, data_dir):
    yield Finding("digests", "passed", f"{len(store)} modules")
    images = comparison_images(store.manifest.input)
    for record in store.manifest.modules:
        name = record.class_name
        directory = store.path / record.directory
        gap = largest_gap(store[name].model, ask_savedmodel, directory, images)
        yield _same_answers(f"answers of {name!r}", gap)
    yield from _same_metrics(store, data_dir)


def _same_answers(test, gap):
    outcome = "passed" if gap <= TOLERANCE else "failed"
    return Finding(test, outcome, f"largest difference {gap:.1e}")


def _same_check(model, recorded, reader, data_dir):
    name, _, split = recorded["data"].rpartition(":")
    check = Check(
        recorded["metric"],
        recorded["min"],
        DataRef(name, split),
        recorded["class"],
    )
    of = f" of {check.class_name!r}" if check.class_name else ""
    test = f"{check.metric}{of} on {recorded['data']}"
    try:
        (result,) = measure(model, [check], reader, data_dir)
    except ArtifactError as error:
        return Finding(test, "skipped", str(error))
    is_same = abs(result.value - recorded["value"]) <= METRIC_TOLERANCE
    return Finding(
        test,
        "passed" if result.passed and is_same else "failed",
        f"{result.value:.4f}, recorded {recorded['value']:.4f}, at least "
        f"{check.min:g} wanted",
    )


def _same_metrics(store, data_dir):
    facts, manifest = store.manifest.data, store.manifest
    if not facts.get("name") or not facts.get("split"):
        reason = "the manifest names no data set and split"
        yield Finding("metrics", "skipped", reason)
        return
    reader = ImageReader(manifest.input, "resize", manifest.class_names)
    try:
        data = DataRef(facts["name"], facts["split"])
        images = reader.load(data, data_dir)
    except ArtifactError as error:
        yield Finding("metrics", "skipped", str(error))
        return
    for name in store:
        if store.info(name).metrics:
            yield _same_module_metrics(store, name, images)


def _same_module_metrics(store, name, images):
    module = store[name]
    log_odds = log_odds_model(module.model).predict(
        images.images, batch_size=256, verbose=0
    )[:, 0]
    index = store.manifest.class_names.index(name)
    found = module_metrics(log_odds, images.labels == index)
    recorded = module.info.metrics
    gaps = [abs(found[key] - recorded[key]) for key in recorded]
    outcome = "passed" if max(gaps) <= METRIC_TOLERANCE else "failed"
    detail = ", ".join(
        f"{key} {found[key]:.4f}, recorded {recorded[key]:.4f}"
        for key in recorded
    )
    return Finding(f"metrics of {name!r}", outcome, detail)
