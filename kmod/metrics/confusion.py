"""Says which classes a model confuses, and how often."""

import dataclasses
from typing import Any

from kmod.metrics.evaluate import Evaluation


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Images of one class that a model took for another.

    Attributes:
        true_class: Name of their class.
        taken_for: Name of the class that the model answered.
        images: How many they are.
        share: Their share of all images of their class, 0 to 1.
    """

    true_class: str
    taken_for: str
    images: int
    share: float

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "class": self.true_class,
            "taken_for": self.taken_for,
            "images": self.images,
            "share": self.share,
        }


def confusions(evaluation: Evaluation) -> list[Confusion]:
    """Lists all confusions, those that cost a class the most first.

    Args:
        evaluation: From `evaluate`.

    Returns:
        One `Confusion` for every pair of classes with any.
    """
    names, counts = evaluation.class_names, evaluation.confusion
    found = [
        Confusion(
            names[true],
            names[answer],
            int(counts[true, answer]),
            float(counts[true, answer] / evaluation.support[true]),
        )
        for true in range(len(names))
        for answer in range(len(names))
        if true != answer and counts[true, answer]
    ]
    return sorted(found, key=lambda each: (-each.share, -each.images))


def worst_confusion(evaluation: Evaluation, class_name: str) -> str:
    """Says in a few words what lowers a class's recall or precision most.

    Args:
        evaluation: From `evaluate`.
        class_name: The class.

    Returns:
        For example `"taken for 'dog' 23 %"`, `"'dog' taken for it 12 %"` (of
        the dogs) where that is the larger number of images, or `""` where
        nothing is confused with the class.
    """
    own = [
        each
        for each in confusions(evaluation)
        if class_name in (each.true_class, each.taken_for)
    ]
    if not own:
        return ""
    worst = max(own, key=lambda each: each.images)
    percent = f"{100 * worst.share:.0f} %"
    if worst.true_class == class_name:
        return f"taken for '{worst.taken_for}' {percent}"
    return f"'{worst.true_class}' taken for it {percent}"
