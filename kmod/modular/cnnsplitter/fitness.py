"""What makes a team of modules fit."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Weights:
    """What makes a team fit.

    Attributes:
        accuracy: Weight of its accuracy, counted or expected.
        distance: Weight of the mean distance between its members.
    """

    accuracy: float
    distance: float

    def fitness(self, accuracy, distance):
        return self.accuracy * accuracy + self.distance * distance


def expected_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean probability that modules give to the true classes.

    It tells teams apart that get as many images right: it changes little by
    little where the count of right answers jumps, so that some hundreds of
    images are not learned by heart.

    Args:
        scores: Array `(num_classes, num_images)`, one module's for each class,
            on a scale such as the source model's logits.
        labels: Integer class indices `(num_images,)`.
    """
    own = scores[labels, np.arange(len(labels))]
    return float(np.mean(np.exp(own - np.logaddexp.reduce(scores, axis=0))))


def swapped_accuracy(
    scores: np.ndarray, labels: np.ndarray, index: int, new: np.ndarray
) -> np.ndarray:
    """Returns the expected accuracy with each of some modules in a team.

    Args:
        scores: Array `(num_classes, num_images)` of the team.
        labels: Integer class indices `(num_images,)`.
        index: The class whose module is swapped.
        new: Array `(num_candidates, num_images)`, scores of other modules for
            that class.

    Returns:
        Array `(num_candidates,)`.
    """
    others = np.logaddexp.reduce(np.delete(scores, index, axis=0), axis=0)
    own = scores[labels, np.arange(len(labels))]
    own = np.where(labels == index, new, own)
    return np.mean(np.exp(own - np.logaddexp(others, new)), axis=1)
