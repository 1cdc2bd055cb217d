"""Runs the checks that a spec makes on its model."""

import dataclasses
from pathlib import Path
from typing import Any

import keras

from kmod.composition.labelled_images import label_by_name
from kmod.composition.labelled_images import load_images
from kmod.composition.plan import CompositionPlan
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.evaluation.metrics import evaluate
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
    evaluations, results = {}, []
    for check in planned.spec.checks:
        if check.data not in evaluations:
            evaluations[check.data] = _evaluate(
                model, planned, check.data, data_dir
            )
        results.append(_result(check, evaluations[check.data]))
    failed = [result for result in results if not result.passed]
    if failed:
        raise CheckError(
            "A composed model must pass the checks of its spec. Received: "
            f"{'; '.join(map(str, results))}. Take better modules, or lower "
            "`min` in the spec if the model is good enough."
        )
    return results


def _evaluate(model, planned, data, data_dir):
    spec = planned.spec
    images, data_classes = load_images(data, planned, data_dir)
    other = len(spec.classes) if spec.scores.other else None
    images = label_by_name(images, data_classes, spec.class_names, other)
    return evaluate(model, images, spec.class_names)


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
