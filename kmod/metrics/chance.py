"""Whether a classifier knows more than one that guesses."""

import numpy as np

from kmod.errors import ArtifactError

DEVIATIONS = 2
NUM_SHOWN = 10


def answered_classes(
    scores: np.ndarray, name: str = "the source model"
) -> np.ndarray:
    """Returns the classes that a classifier answers.

    Args:
        scores: Float array `(n, num_classes)`.
        name: What the classifier is called in the message.

    Returns:
        int64 array `(n,)`.

    Raises:
        ArtifactError: If scores are not a number.
    """
    broken = np.isnan(scores).any(axis=1)
    if broken.any():
        raise ArtifactError(
            "The answers of a trained model must be numbers. Received: "
            f"{name} with NaN for {broken.sum()} of {len(scores)} images. Look "
            "at its weights, at the scale of the images and, in float16, for "
            "values above 65504."
        )
    return scores.argmax(axis=1)


def check_above_chance(
    predictions: np.ndarray, labels: np.ndarray, name: str = "the source model"
) -> float:
    """Refuses a classifier whose answers are no better than guesses.

    Recall is averaged over the classes that are there, so that it does not
    help to name the most frequent one. Guessing gets one in so many classes
    right; what is above that by no more than two standard deviations can be
    luck. Images of one class, or too few to tell, are not judged by. If
    labels in another order fit far better, the message names that order.

    Args:
        predictions: Integer array `(n,)`, the answers.
        labels: Integer array `(n,)`, true class indices.
        name: What the classifier is called in the message.

    Returns:
        The accuracy.

    Raises:
        ArtifactError: If the mean recall is not above that of guesses.
    """
    accuracy = float(np.mean(predictions == labels))
    classes, counts = np.unique(labels, return_counts=True)
    chance = 1 / len(classes)
    recall = np.mean(
        [np.mean(predictions[labels == index] == index) for index in classes]
    )
    # Of a mean over classes of binomial shares.
    variance = np.sum(chance * (1 - chance) / counts) * chance**2
    limit = chance + DEVIATIONS * np.sqrt(variance)
    if limit < 1 and recall <= limit:
        raise ArtifactError(
            "The answers of a trained model must be better than guesses on the "
            f"data given. Received: {name} with an accuracy of {accuracy:.1%} "
            f"and a mean recall of {recall:.1%} on {len(labels)} images of "
            f"{len(classes)} classes, where guesses get {chance:.1%} and up "
            f"to {limit:.1%} by luck; {_explained(predictions, labels)}. Give "
            "labels in the order of the model's outputs and images scaled as "
            "in its training (in commands by `--value-range`), of the classes "
            "that it was trained on."
        )
    return accuracy


def _explained(predictions, labels):
    """Says in which order labels would fit, or what is answered most."""
    from scipy.optimize import linear_sum_assignment

    size = 1 + int(max(predictions.max(), labels.max()))
    confusion = np.zeros((size, size), "int64")
    np.add.at(confusion, (labels, predictions), 1)
    order = linear_sum_assignment(confusion, maximize=True)[1]
    classes = np.flatnonzero(confusion.sum(axis=1))
    accuracy = confusion[classes, order[classes]].sum() / len(labels)
    # An order that is chosen to fit guesses lies above chance as well.
    if accuracy > (1 + 1 / len(classes)) / 2:
        moved = [
            f"{label} as {order[label]}"
            for label in classes
            if order[label] != label
        ]
        more = ", ..." if len(moved) > NUM_SHOWN else ""
        return (
            f"the labels fit with an accuracy of {accuracy:.1%} if read class "
            f"by class: {', '.join(moved[:NUM_SHOWN])}{more}"
        )
    answers = confusion.sum(axis=0)
    return (
        f"the most frequent answer is class {answers.argmax()}, for "
        f"{answers.max() / len(labels):.1%} of the images"
    )
