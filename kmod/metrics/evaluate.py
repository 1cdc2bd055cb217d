"""How well a classifier does, overall and class by class."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kmod.data.batches import iter_batches


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a classifier got right.

    Attributes:
        class_names: Name of each class, by class index.
        accuracy: Share of the images that were classified right, 0 to 1.
        precision: Float array, per class: right ones among those it was
            given to.
        recall: Float array, per class: right ones among those of the class.
        f1: Float array, per class: harmonic mean of the two.
        support: int64 array, per class: number of images.
        confusion: int64 array `(true class, predicted class)` of images.
    """

    class_names: tuple[str, ...]
    accuracy: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    confusion: np.ndarray

    def accuracy_on_others(self, class_index: int) -> float:
        """Returns the accuracy on the images of all other classes."""
        others = np.arange(len(self.class_names)) != class_index
        right = self.confusion.diagonal()[others].sum()
        return float(right / max(self.support[others].sum(), 1))

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, with figures by class name."""
        columns = zip(self.precision, self.recall, self.f1, self.support)
        figures = [
            {
                "precision": float(p),
                "recall": float(r),
                "f1": float(f),
                "support": int(s),
            }
            for p, r, f, s in columns
        ]
        return {
            "accuracy": self.accuracy,
            "classes": dict(zip(self.class_names, figures)),
            "confusion": self.confusion.tolist(),
        }


def evaluate(
    model: keras.Model,
    data: Any,
    class_names: Sequence[str] | None = None,
    batch_size: int = 256,
) -> Evaluation:
    """Measures a classifier on labelled images.

    Args:
        model: Classifier, images to `(batch, num_classes)` scores; the class
            with the highest score is its answer.
        data: `(images, labels)` arrays, `LabelledImages`, a batched
            `tf.data.Dataset` or a `keras.utils.PyDataset`; labels are class
            indices.
        class_names: Names of the classes. Defaults to `"0"`, `"1"`, ....
        batch_size: Integer, images to a batch of arrays.

    Returns:
        The `Evaluation`. A class that never occurs has figures of 0.

    Raises:
        ValueError: If labels or names do not fit the model's scores.

    Example:

    >>> evaluate(model, (x_test, y_test), ["cat", "dog"]).f1
    array([0.91, 0.87])
    """
    labels, predictions, num_classes = answers(model, data, batch_size)
    names = _names(class_names, num_classes, labels)
    return evaluate_answers(labels, predictions, names)


def answers(
    model: keras.Model, data: Any, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray, int]:
    """Runs a classifier once over labelled images.

    Args:
        model: As in `evaluate`.
        data: As in `evaluate`.
        batch_size: Integer, images to a batch of arrays.

    Returns:
        Tuple `(labels, predictions, num_classes)`, the first two int64 arrays
        `(n,)` of class indices.
    """
    labels, predictions = [], []
    for images, true in iter_batches(data, batch_size):
        scores = model.predict_on_batch(images)
        labels.append(true)
        predictions.append(scores.argmax(axis=-1))
    return (
        np.concatenate(labels),
        np.concatenate(predictions),
        scores.shape[-1],
    )


def predict_scores(
    model: keras.Model, images: np.ndarray, batch_size: int = 256
) -> np.ndarray:
    """Returns the scores of images as a float32 array `(n, num_classes)`."""
    scores = model.predict(images, batch_size=batch_size, verbose=0)
    return scores.astype("float32")


def _names(class_names, num_classes, labels):
    if class_names is None:
        class_names = [str(index) for index in range(num_classes)]
    if len(class_names) != num_classes or labels.max() >= num_classes:
        raise ValueError(
            "The model must have one score for each class. Received: "
            f"{num_classes} scores, {len(class_names)} class names and labels "
            f"up to {labels.max()}. Evaluate on the classes of the model."
        )
    return tuple(class_names)


def evaluate_answers(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> Evaluation:
    """Measures answers that were given for labelled images.

    Args:
        labels: int64 array `(n,)`, true class indices.
        predictions: int64 array `(n,)`, the answers.
        class_names: Names of all classes.
    """
    from sklearn import metrics

    indices = np.arange(len(class_names))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=indices, zero_division=0
    )
    return Evaluation(
        class_names=tuple(class_names),
        accuracy=float(np.mean(labels == predictions)),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        confusion=metrics.confusion_matrix(labels, predictions, labels=indices),
    )
