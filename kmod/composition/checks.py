"""Whether a model is what its spec or manifest says.

A spec's checks are run when its model is composed; `kmod test` runs them again
on what was saved, with those of digests and saved forms. `_judge` decides of
each whether it passed.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import keras

from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.composition_manifest import check_composition
from kmod.composition.composition_manifest import manifest_of
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.composition_manifest import wanted
from kmod.composition.contract import KERAS_FORM
from kmod.composition.contract import SPEC_FILE
from kmod.composition.contract import ContractLine
from kmod.composition.contract import contract_lines
from kmod.composition.labelled_images import ImageReader
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.lock import lock_path
from kmod.composition.measures import ComposedModel
from kmod.composition.measures import Modules
from kmod.composition.plan import CompositionPlan
from kmod.composition.plan import prior_in_words
from kmod.composition.saving import load
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import IntegrityError
from kmod.export.write import FORMS
from kmod.export.write import TOLERANCE
from kmod.export.write import largest_gap
from kmod.files.plain_yaml import read_yaml
from kmod.modules.adaptation import comparison_images
from kmod.modules.module_store import load_store
from kmod.spec.model import QUALITIES
from kmod.spec.model import Check
from kmod.spec.model import DataRef

# How far a figure may be from the recorded one: other hardware may round
# another way, and move an image that lies on a border.
METRIC_TOLERANCE = 0.01
# Lines that are measured on data, which may not be at hand.
_MEASURED = ("check", "metrics")
# What is only measured on what was saved.
SAVED_METRICS = ("exactness", "latency")


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        check: The check.
        value: The figure that was measured; of a range of scores both ends.
        num_images: Number of images it was measured on.
    """

    check: Check
    value: float | tuple[float, float]
    num_images: int

    @property
    def passed(self) -> bool:
        """Whether the figure lies between the limits."""
        least, most = self.check.min, self.check.max
        return all(
            (least is None or value >= least)
            and (most is None or value <= most)
            for value in self._values
        )

    @property
    def _values(self):
        return self.value if isinstance(self.value, tuple) else (self.value,)

    @property
    def words(self) -> str:
        """The figure in words."""
        return " to ".join(
            (
                f"{value:.4g}"
                if self.check.metric == "exactness"
                else f"{value:.4f}"
            )
            for value in self._values
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        check = self.check
        more = {"max": check.max, "shift": check.shift, "flip": check.flip}
        is_one = len(self._values) == 1
        return {
            "metric": check.metric,
            "class": check.class_name,
            "data": None if check.data is None else str(check.data),
            "min": check.min,
            "value": self.value if is_one else list(self.value),
            "num_images": self.num_images,
        } | {key: value for key, value in more.items() if value is not None}

    def __str__(self) -> str:
        limits = wanted(self.check.min, self.check.max)
        return f"{self.check} is {self.words}, {limits} wanted"


def run_checks(
    model: keras.Model,
    planned: CompositionPlan,
    data_dir: str | Path | None = None,
    given: Mapping[DataRef, Any] | None = None,
) -> list[CheckResult]:
    """Measures all that the spec's checks ask for.

    Images are matched to the model's classes by name. Those of other classes
    count as the spec's `other` class, and are left out if it has none.
    Exactness and latency are left to `kmod test`.

    Args:
        model: The composed model.
        planned: The plan it was built from.
        data_dir: Directory of the prepared data sets.
        given: Labelled images in the place of data sets.

    Returns:
        What every check found.

    Raises:
        CheckError: If a figure is too low or too high; the message holds them
            all.
        ArtifactError: If a data set is missing or does not fit the model.
    """
    manifest = manifest_of(planned)
    reader = reader_of_manifest(manifest, given)
    subject = ComposedModel(model, manifest, reader, data_dir)
    results = [
        _judge(check, subject)
        for check in planned.spec.checks
        if check.metric not in SAVED_METRICS
    ]
    if not all(result.passed for result in results):
        raise CheckError(
            "A composed model must pass the checks of its spec. Received: "
            f"{'; '.join(map(str, results))}. Take better modules, or change "
            "`min` or `max` in the spec if the model is good enough."
        )
    return results


def _judge(check, subject):
    """Measures what a check asks for."""
    return CheckResult(check, *getattr(subject, _measure_of(check))(check))


def _measure_of(check):
    return "quality" if check.metric in QUALITIES else check.metric


@dataclasses.dataclass(frozen=True)
class TestResult:
    """What a test of something saved found.

    Attributes:
        test: What was tested.
        outcome: `"skipped"` if it could not be run, which is no fault.
        detail: The figures, or why it was skipped.
        exit_code: What `kmod test` exits with for it: 0, 4 if what was saved
            is not what was written, or 5.
    """

    test: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str
    exit_code: int = 0


def run_tests(
    path: str | Path,
    data_dir: str | Path | None = None,
    *,
    contract: str | Path | None = None,
    sources: Sequence[str | Path] = (),
) -> Iterator[TestResult]:
    """Tests a module store or a composed model, line by line of its contract.

    Digests come first, and nothing else is tested if one is broken. Then every
    saved form is asked for the answers to real images; then what the manifest
    promises is measured again, as far as the data sets that it names are at
    hand.

    Args:
        path: Directory of the store or composed model.
        data_dir: Directory of the prepared data sets.
        contract: YAML file of further checks, as `checks` of a spec.
        sources: Files of the source models, for latency. Defaults to where
            the manifest says they are.

    Yields:
        What each test found.

    Raises:
        ArtifactError: If there is neither a store nor a composed model.
        InvalidSpecError: If `contract` is not valid.
        UsageError: If one of `sources` is no source of it.
    """
    tester = ContractTester(path, data_dir, sources)
    for line in contract_lines(path, contract):
        result = tester.test(line)
        yield result
        if line.kind == "digests" and result.outcome == "failed":
            return


class ContractTester:
    """Tests single lines of the contract of a store or composed model.

    What it loads and measures for one line is kept for the next.

    Args:
        path: Its directory.
        data_dir: Directory of the prepared data sets.
        sources: As for `run_tests`.
    """

    def __init__(
        self,
        path: str | Path,
        data_dir: str | Path | None = None,
        sources: Sequence[str | Path] = (),
    ):
        self._path = Path(path)
        self._data_dir = data_dir
        self._sources = tuple(map(Path, sources))
        is_composed = os.path.lexists(self._path / COMPOSITION_FILE)
        self._is_store = not is_composed

    def test(self, line: ContractLine) -> TestResult:
        """Tests one line.

        Raises:
            ArtifactError: If something saved can not be loaded safely.
            UsageError: If a file of a source model is of another one.
        """
        exit_code = 0
        try:
            outcome, detail = getattr(self, f"_{line.kind}")(line)
            if outcome == "failed":
                exit_code = CheckError.exit_code
        except IntegrityError as error:
            outcome, detail = "failed", str(error)
            exit_code = error.exit_code
        except ArtifactError as error:
            if line.kind not in _MEASURED:
                raise
            outcome, detail = "skipped", str(error)  # Data are not at hand.
        return TestResult(str(line), outcome, detail, exit_code)

    @functools.cached_property
    def _store(self):
        return load_store(self._path, verify=False)

    @functools.cached_property
    def _model(self):
        return load(self._path)

    @functools.cached_property
    def _subject(self):
        if self._is_store:
            manifest = self._store.manifest
            # Of a single class there are images that do not show it, too.
            other = 1 if len(manifest.class_names) == 1 else None
            reader = ImageReader(
                manifest.input, "resize", manifest.class_names, other
            )
            return Modules(self._store, reader, self._data_dir, self._sources)
        manifest = self._model.manifest
        return ComposedModel(
            self._model,
            manifest,
            reader_of_manifest(manifest),
            self._data_dir,
            self._path,
            self._sources,
        )

    def _digests(self, line):
        if self._is_store:
            return "passed", f"{len(load_store(self._path))} modules"
        manifest = check_composition(self._path)
        return "passed", f"{len(manifest.files)} files"

    @functools.cached_property
    def _images(self):
        subject = self._store if self._is_store else self._model
        return comparison_images(subject.manifest.input)

    def _answers(self, line):
        if self._is_store:
            record = self._store.manifest.record_of(line.class_name)
            model = self._store[line.class_name].model
            directory = self._store.path / record.directory
            gap = largest_gap(model, "savedmodel", directory, self._images)
        elif line.form is None:
            return "skipped", f"there is no '{FORMS[KERAS_FORM].path}'"
        else:
            path = self._path / FORMS[line.form].path
            gap = largest_gap(self._model, line.form, path, self._images)
        outcome = "passed" if gap <= TOLERANCE else "failed"
        return outcome, f"largest difference {gap:.1e}"

    def _prior(self, line):
        manifest = read_composition_manifest(self._path)
        result = same_prior(self._path, manifest.calibration["prior"])
        return result.outcome, result.detail

    def _contract(self, line):
        return "skipped", (
            "the manifest holds none, since it was written before there were "
            "contracts; make it again to get one, or give `--contract FILE`"
        )

    def _metrics(self, line):
        if line.class_name is None:
            return "skipped", "the manifest names no data set and split"
        recorded = self._store.info(line.class_name).metrics
        found = self._subject.recorded_metrics(line.class_name)
        gaps = [abs(found[key] - recorded[key]) for key in recorded]
        outcome = "passed" if max(gaps) <= METRIC_TOLERANCE else "failed"
        return outcome, ", ".join(
            f"{key} {found[key]:.4f}, recorded {recorded[key]:.4f}"
            for key in recorded
        )

    def _check(self, line):
        result = _judge(line.check, self._subject)
        detail, is_same = result.words, True
        if line.recorded is not None:
            detail += f", recorded {line.recorded:.4f}"
            gap = abs(result.value - line.recorded)
            is_same = (
                line.check.metric not in QUALITIES or gap <= METRIC_TOLERANCE
            )
        detail += f", {wanted(line.check.min, line.check.max)} wanted"
        return "passed" if result.passed and is_same else "failed", detail


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
