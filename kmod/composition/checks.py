"""Whether a model is what its spec or manifest says, measured on images.

A spec's checks are run when its model is composed; `kmod test` runs them again
on what was saved, with those of digests and saved forms.
"""

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import Literal

import keras

from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.composition_manifest import manifest_of
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.labelled_images import ImageReader
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.lock import lock_path
from kmod.composition.plan import CompositionPlan
from kmod.composition.plan import prior_in_words
from kmod.composition.saving import KERAS_FILE
from kmod.composition.saving import SPEC_FILE
from kmod.composition.saving import load
from kmod.data.streaming import predict
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.export.write import FORMS
from kmod.export.write import TOLERANCE
from kmod.export.write import largest_gap
from kmod.files import check_files
from kmod.files.plain_yaml import read_yaml
from kmod.metrics.evaluate import evaluate
from kmod.modules.adaptation import comparison_images
from kmod.modules.cut import log_odds_model
from kmod.modules.decompose import module_metrics
from kmod.modules.module_store import load_store
from kmod.spec.model import Check
from kmod.spec.model import DataRef
from kmod.spec.spec_file import load_spec

# How far a figure may be from the recorded one: other hardware may round
# another way, and move an image that lies on a border.
METRIC_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        check: The check.
        value: The figure that was measured.
        num_images: Number of images it was measured on.
    """

    check: Check
    value: float
    num_images: int

    @property
    def passed(self) -> bool:
        """Whether the figure is high enough."""
        return self.value >= self.check.min

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "metric": self.check.metric,
            "class": self.check.class_name,
            "data": str(self.check.data),
            "min": self.check.min,
            "value": self.value,
            "num_images": self.num_images,
        }

    def __str__(self) -> str:
        figures = self.as_dict()
        of = f" of {figures['class']!r}" if figures["class"] else ""
        return (
            f"{figures['metric']}{of} on {figures['data']} is "
            f"{self.value:.4f}, at least {self.check.min:g} wanted"
        )


def run_checks(
    model: keras.Model,
    planned: CompositionPlan,
    data_dir: str | Path | None = None,
    given: Mapping[DataRef, Any] | None = None,
) -> list[CheckResult]:
    """Measures all that the spec's checks ask for.

    Images are matched to the model's classes by name. Those of other classes
    count as the spec's `other` class, and are left out if it has none.

    Args:
        model: The composed model.
        planned: The plan it was built from.
        data_dir: Directory of the prepared data sets.
        given: Labelled images in the place of data sets.

    Returns:
        What every check found.

    Raises:
        CheckError: If a figure is too low; the message holds them all.
        ArtifactError: If a data set is missing or does not fit the model.
    """
    results = _measure(
        model,
        planned.spec.checks,
        reader_of_manifest(manifest_of(planned), given),
        data_dir,
    )
    if not all(result.passed for result in results):
        raise CheckError(
            "A composed model must pass the checks of its spec. Received: "
            f"{'; '.join(map(str, results))}. Take better modules, or lower "
            "`min` in the spec if the model is good enough."
        )
    return results


def _measure(model, checks, reader, data_dir):
    """Measures the figures of checks, whether they are high enough or not."""
    evaluations = {
        data: evaluate(model, reader.load(data, data_dir), reader.class_names)
        for data in dict.fromkeys(check.data for check in checks)
    }
    return [_result(check, evaluations[check.data]) for check in checks]


def _result(check, evaluation):
    num_images = int(evaluation.support.sum())
    if check.class_name is None:
        return CheckResult(check, evaluation.accuracy, num_images)
    index = evaluation.class_names.index(check.class_name)
    if not evaluation.support[index]:
        raise ArtifactError(
            "A check of a class needs images of it. Received: no image of "
            f"{check.class_name!r} in data set {check.data.name!r}. Name a "
            "data set that shows the class, by this name."
        )
    metric = "recall" if check.metric == "accuracy" else check.metric
    return CheckResult(
        check, float(getattr(evaluation, metric)[index]), num_images
    )


@dataclasses.dataclass(frozen=True)
class TestResult:
    """What a test of something saved found.

    Attributes:
        test: What was tested.
        outcome: `"skipped"` if it could not be run, which is no fault.
        detail: The figures, or why it was skipped.
    """

    test: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str


def run_tests(
    path: str | Path, data_dir: str | Path | None = None
) -> Iterator[TestResult]:
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
    yield TestResult("digests", "passed", f"{len(manifest.files)} files")
    if KERAS_FILE not in manifest.files:
        yield TestResult("answers", "skipped", f"there is no '{KERAS_FILE}'")
        return
    model = load(path)
    manifest = model.manifest
    images = comparison_images(manifest.input)
    for name, form in FORMS.items():
        if (path / form.path).exists():
            gap = largest_gap(model, name, path / form.path, images)
            yield _same_answers(f"answers of {name}", gap)
    if manifest.calibration.get("prior") is not None:
        yield same_prior(path, manifest.calibration["prior"])
    reader = reader_of_manifest(manifest)
    recorded = manifest.metrics.get("checks", ())
    paths = _paths(path / SPEC_FILE) if recorded else {}
    for figures in recorded:
        yield _same_check(model, figures, reader, data_dir, paths)


def same_prior(path: Path, prior: str | Mapping[str, float]) -> TestResult:
    """Compares how frequent classes count as with what was locked.

    Args:
        path: Directory of the composed model.
        prior: What its manifest says.
    """
    lock = lock_path(path / SPEC_FILE)
    if not lock.is_file():
        return TestResult("prior", "skipped", f"there is no '{lock.name}'")
    locked = read_yaml(lock).get("prior")
    detail = f"classes {prior_in_words(prior)}"
    if locked == prior:
        return TestResult("prior", "passed", detail)
    return TestResult("prior", "failed", f"{detail}, locked as {locked!r}")


def _paths(spec_path):
    """Returns where images of checks lie, which manifests do not say."""
    data = (check.data for check in load_spec(spec_path).checks)
    return {str(ref): ref for ref in data if isinstance(ref.name, Path)}


def _test_store(store, data_dir):
    yield TestResult("digests", "passed", f"{len(store)} modules")
    models = {name: store[name].model for name in store}
    images = comparison_images(store.manifest.input)  # As all of them take.
    for record in store.manifest.modules:
        name = record.class_name
        directory = store.path / record.directory
        gap = largest_gap(models[name], "savedmodel", directory, images)
        yield _same_answers(f"answers of {name!r}", gap)
    yield from _same_metrics(store, data_dir)


def _same_answers(test, gap):
    outcome = "passed" if gap <= TOLERANCE else "failed"
    return TestResult(test, outcome, f"largest difference {gap:.1e}")


def _same_check(model, recorded, reader, data_dir, paths):
    name, _, split = recorded["data"].rpartition(":")
    data = paths.get(recorded["data"], DataRef(name, split))
    check = Check(recorded["metric"], recorded["min"], data, recorded["class"])
    of = f" of {check.class_name!r}" if check.class_name else ""
    test = f"{check.metric}{of} on {recorded['data']}"
    try:
        (result,) = _measure(model, [check], reader, data_dir)
    except ArtifactError as error:
        return TestResult(test, "skipped", str(error))
    is_same = abs(result.value - recorded["value"]) <= METRIC_TOLERANCE
    return TestResult(
        test,
        "passed" if result.passed and is_same else "failed",
        f"{result.value:.4f}, recorded {recorded['value']:.4f}, at least "
        f"{check.min:g} wanted",
    )


def _same_metrics(store, data_dir):
    manifest, recorded = store.manifest, store.manifest.data
    if not recorded.get("name") or not recorded.get("split"):
        reason = "the manifest names no data set and split"
        yield TestResult("metrics", "skipped", reason)
        return
    reader = ImageReader(manifest.input, "resize", manifest.class_names)
    name = recorded["name"]
    if "path" in recorded:
        name = (store.path / recorded["path"]).resolve()
    try:
        data = DataRef(name, recorded["split"])
        images = reader.load(data, data_dir)
    except ArtifactError as error:
        yield TestResult("metrics", "skipped", str(error))
        return
    for name in store:
        if store.info(name).metrics:
            yield _same_module_metrics(store, name, images)


def _same_module_metrics(store, name, images):
    module = store[name]
    log_odds = predict(log_odds_model(module.model), images.images)[:, 0]
    index = store.manifest.class_names.index(name)
    found = module_metrics(log_odds, images.labels == index)
    recorded = module.info.metrics
    gaps = [abs(found[key] - recorded[key]) for key in recorded]
    outcome = "passed" if max(gaps) <= METRIC_TOLERANCE else "failed"
    detail = ", ".join(
        f"{key} {found[key]:.4f}, recorded {recorded[key]:.4f}"
        for key in recorded
    )
    return TestResult(f"metrics of {name!r}", outcome, detail)
