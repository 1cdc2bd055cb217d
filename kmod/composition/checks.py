"""Runs the checks that a spec makes on its model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.composition.composition_plan import CompositionPlan
from kmod.composition.labelled_images import ImageReader
from kmod.composition.labelled_images import reader_of_plan
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.metrics.evaluate import evaluate
from kmod.spec.model import Check


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
            "data": f"{self.check.data.name}:{self.check.data.split}",
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
) -> list[CheckResult]:
    """Measures all that the spec's checks ask for.

    Images are matched to the model's classes by name. Those of other classes
    count as the spec's `other` class, and are left out if it has none.

    Args:
        model: The composed model.
        planned: The plan it was built from.
        data_dir: Directory of the prepared data sets.

    Returns:
        What every check found.

    Raises:
        CheckError: If a figure is too low; the message holds them all.
        ArtifactError: If a data set is missing or does not fit the model.
    """
    results = measure(
        model, planned.spec.checks, reader_of_plan(planned), data_dir
    )
    if not all(result.passed for result in results):
        raise CheckError(
            "A composed model must pass the checks of its spec. Received: "
            f"{'; '.join(map(str, results))}. Take better modules, or lower "
            "`min` in the spec if the model is good enough."
        )
    return results


def measure(
    model: keras.Model,
    checks: Sequence[Check],
    reader: ImageReader,
    data_dir: str | Path | None = None,
) -> list[CheckResult]:
    """Measures the figures of checks, whether they are high enough or not.

    Args:
        model: Classifier.
        checks: The checks.
        reader: What reads the images for the model.
        data_dir: Directory of the prepared data sets.

    Returns:
        What every check found.

    Raises:
        ArtifactError: If a data set is missing or does not fit the model.
    """
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
