"""How well a classifier does, overall and class by class."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from kmod.data.batches import common_class_names
from kmod.data.batches import iter_batches
from kmod.data.replicas import predict_batch
from kmod.errors import UsageError
from kmod.graph.channel_graph import score_threshold
from kmod.graph.sources import functional_of
from kmod.metrics.chance import answered_classes

WEAK_GAP = 0.1
BATCH_SIZE = 256
RARE = 50  # So many times fewer images than another class are few.


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """How well answers do for one class and for all others.

    Every figure is 0 to 1, and 0 where there is nothing to count. It is a
    number, or an array where several are counted at once.

    Attributes:
        precision: Right ones among the images that were given to the class.
        recall: Right ones among the images of the class.
        f1: Harmonic mean of the two.
        other_classes_accuracy: Right ones among the images of all others.
    """

    precision: float | np.ndarray
    recall: float | np.ndarray
    f1: float | np.ndarray
    other_classes_accuracy: float | np.ndarray


def class_figures(
    hits: int | np.ndarray,
    predicted: int | np.ndarray,
    actual: int | np.ndarray,
    right: int | np.ndarray,
    images: int | np.ndarray,
) -> ClassFigures:
    """Works out the figures of a class from counts of images.

    Args:
        hits: Images of the class that were given to it.
        predicted: All images that were given to it.
        actual: All images of it.
        right: Images of any class that were classified right.
        images: Images of any class.
    """
    return ClassFigures(
        hits / np.maximum(predicted, 1),
        hits / np.maximum(actual, 1),
        2 * hits / np.maximum(predicted + actual, 1),
        (right - hits) / np.maximum(images - actual, 1),
    )


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
        other_classes_accuracy: Float array, per class: right ones among those
            of all other classes.
        support: int64 array, per class: number of images.
        confusion: int64 array `(true class, predicted class)` of images.
        labels: int64 array `(n,)`, the true class of each image.
        answers: int64 array `(n,)`, the class that it was given to.
    """

    class_names: tuple[str, ...]
    accuracy: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    other_classes_accuracy: np.ndarray
    support: np.ndarray
    confusion: np.ndarray
    labels: np.ndarray
    answers: np.ndarray

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that there are images of."""
        return float(self.f1[self.support > 0].mean())

    def accuracy_interval(
        self, confidence: float = 0.95
    ) -> tuple[float, float]:
        """Returns the interval of the accuracy on other images like these.

        Args:
            confidence: How sure it is, 0 to 1; see `wilson_interval`.
        """
        right = self.confusion.diagonal().sum()
        return wilson_interval(right, self.confusion.sum(), confidence)

    def intervals_of(
        self, class_index: int, confidence: float = 0.95
    ) -> dict[str, tuple[float, float] | None]:
        """Returns the intervals of a class's precision and recall.

        `None` where there is nothing to count.

        Args:
            class_index: Index of the class.
            confidence: How sure they are, 0 to 1; see `wilson_interval`.
        """
        hits = self.confusion[class_index, class_index]
        counts = {
            "precision": self.confusion[:, class_index].sum(),
            "recall": self.support[class_index],
        }
        return {
            name: wilson_interval(hits, count, confidence) if count else None
            for name, count in counts.items()
        }

    def figures_of(self, class_index: int) -> dict[str, float]:
        """Returns the precision, recall and F1 of a class as plain data."""
        return {
            name: float(getattr(self, name)[class_index])
            for name in ("precision", "recall", "f1")
        }

    def _known_figures(self, index):
        figures = self.figures_of(index)
        return figures if self.support[index] else dict.fromkeys(figures)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, with figures by class name.

        Those of a class without images are `None`.
        """
        return {
            "accuracy": self.accuracy,
            "classes": {
                name: {
                    **self._known_figures(index),
                    "support": int(self.support[index]),
                }
                for index, name in enumerate(self.class_names)
            },
            "confusion": self.confusion.tolist(),
        }


def wilson_interval(
    hits: int, count: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the interval of a share, of what it would be of many more.

    Args:
        hits: How many were right.
        count: Of how many, at least 1.
        confidence: How sure it is, 0 to 1.

    Reference:

    - Wilson, 1927, "Probable inference, the law of succession, and
      statistical inference".
    """
    from scipy import stats

    found = stats.binomtest(int(hits), int(count))
    interval = found.proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def evaluate(
    model: keras.Model,
    data: Any,
    class_names: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    output: str | None = None,
) -> Evaluation:
    """Measures a classifier on labelled images.

    Args:
        model: Classifier, images to `(batch, num_classes)` scores; the class
            with the highest score is its answer. One score `(batch, 1)` is
            that of the second of two classes.
        data: `(images, labels)` arrays, `LabelledImages`, a batched
            `tf.data.Dataset` or a `keras.utils.PyDataset`; labels are class
            indices.
        class_names: Names of the classes. Defaults to those that a data set
            has, and else to `"0"`, `"1"`, ....
        batch_size: Integer, images to a batch of arrays.
        output: Name of the model's output to measure, of several.

    Returns:
        The `Evaluation`. A class without images has figures of 0 in its
        arrays, and of `None` in `as_dict`.

    Raises:
        ValueError: If labels or names do not fit the model's scores, or a
            data set has the model's class names in another order.
        UsageError: If `output` is none of its outputs, or is needed.
        ArtifactError: If the model answers with what is not a number.

    Example:

    >>> evaluate(model, (x_test, y_test), ["cat", "dog"]).f1
    array([0.91, 0.87])
    """
    common_class_names(getattr(model, "class_names", None), data)
    class_names = common_class_names(class_names, data)
    if output is not None or len(getattr(model, "outputs", None) or ()) > 1:
        model = functional_of(model, output)
    labels, predictions, num_classes = answers(model, data, batch_size)
    if class_names is None:
        class_names = [str(index) for index in range(num_classes)]
    if len(class_names) != num_classes or labels.max() >= num_classes:
        raise ValueError(
            "The model must have one score for each class. Received: "
            f"{num_classes} scores, {len(class_names)} class names and labels "
            f"up to {labels.max()}. Evaluate on the classes of the model."
        )
    return evaluate_answers(labels, predictions, class_names)


def answers(
    model: keras.Model, data: Any, batch_size: int = BATCH_SIZE
) -> tuple[np.ndarray, np.ndarray, int]:
    """Runs a classifier once over labelled images, as `evaluate` takes them.

    Returns:
        Tuple `(labels, predictions, num_classes)`, the first two int64 arrays
        `(n,)` of class indices.

    Raises:
        ArtifactError: If scores are not a number.
    """
    labels, predictions, threshold = [], [], None
    for images, true in iter_batches(data, batch_size):
        scores = _only_output(model, images)
        if scores.shape[-1] == 1:
            if threshold is None:
                threshold = score_threshold(model)
            scores = np.concatenate([2 * threshold - scores, scores], axis=-1)
        labels.append(true)
        predictions.append(answered_classes(scores, repr(model.name)))
    return (
        np.concatenate(labels),
        np.concatenate(predictions),
        scores.shape[-1],
    )


def _only_output(model, images):
    found = tree.flatten(predict_batch(model, images))
    if len(found) > 1:
        raise UsageError(
            "A classifier has one output, a score for each class. Received: "
            f"{model.name!r} with {len(found)} outputs. Evaluate one of them, "
            "`keras.Model(model.inputs, output)`."
        )
    return found[0]


def roc_auc(scores: np.ndarray, is_class: np.ndarray) -> float:
    """Returns the area under the ROC curve of scores.

    Args:
        scores: Float array `(n,)`.
        is_class: Boolean array `(n,)`, which images ought to score high.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_class, scores))


def auroc_of_unseen(
    model: keras.Model,
    own: Any,
    unseen: np.ndarray,
    other: int | None = None,
) -> float:
    """Measures whether a classifier knows what is none of its classes.

    Args:
        model: Classifier, images to `(batch, num_classes)`, or to one score
            of two classes.
        own: Images of its classes, as `evaluate` takes them.
        unseen: Images `(n, height, width, channels)` of none of them.
        other: Index of the class for such images, which tells how sure the
            model is. Defaults to none: then its highest score tells it.

    Returns:
        Area under the ROC curve, 0 to 1: the chance that the model is surer
        that an image of its own is of its classes than an unseen one.
    """
    batches = (images for images, _ in iter_batches(own, BATCH_SIZE))
    parts = range(0, len(unseen), BATCH_SIZE)
    found = (
        np.concatenate([_sureness(model, each, other) for each in images])
        for images in (batches, (unseen[i : i + BATCH_SIZE] for i in parts))
    )
    known, new = found
    is_own = np.arange(len(known) + len(new)) < len(known)
    return roc_auc(np.concatenate([known, new]), is_own)


def _sureness(model, images, other):
    scores = _only_output(model, images)
    if other is not None:
        return -scores[:, other]
    if scores.shape[-1] == 1:
        return np.abs(scores[:, 0] - score_threshold(model))
    return scores.max(axis=-1)


def evaluate_answers(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> Evaluation:
    """Measures answers that were given for labelled images.

    Args:
        labels: int64 array `(n,)`, true class indices.
        predictions: int64 array `(n,)`, the answers.
        class_names: Names of all classes.
    """
    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(
        labels, predictions, labels=np.arange(len(class_names))
    )
    hits, support = confusion.diagonal(), confusion.sum(axis=1)
    figures = class_figures(
        hits, confusion.sum(axis=0), support, hits.sum(), support.sum()
    )
    return Evaluation(
        class_names=tuple(class_names),
        accuracy=float(np.mean(labels == predictions)),
        **vars(figures),
        support=support,
        confusion=confusion,
        labels=labels,
        answers=predictions,
    )


def warn_of_rare_classes(
    labels: np.ndarray, class_names: Sequence[str]
) -> None:
    """Warns of classes that validation images show too seldom to judge by.

    Args:
        labels: int64 array `(n,)` of class indices.
        class_names: Names of all classes.

    Warns:
        UserWarning: If a class has no image, or `RARE` times fewer than the
            most frequent one.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    missing, rare = (
        [class_names[index] for index in np.flatnonzero(are_few)]
        for are_few in (
            counts == 0,
            (counts > 0) & (counts * RARE <= counts.max()),
        )
    )
    found = [
        f"{text} of {classes}"
        for text, classes in (
            ("no image", missing),
            (f"1 image for {RARE} or more of the most frequent class", rare),
        )
        if classes
    ]
    if found:
        warnings.warn(
            "Validation images should show all classes alike. Received: "
            f"{' and '.join(found)}. What is measured, chosen and calibrated "
            "for these classes rests on that: without images, figures are left "
            "empty and scores are not calibrated. Hold out more images of "
            "them.",
            UserWarning,
            stacklevel=3,
        )


def weak_classes(evaluation: Evaluation, gap: float = WEAK_GAP) -> list[int]:
    """Returns the indices of the weak classes, the weakest first.

    A class is weak if its F1 is more than `gap` below the mean F1 of all
    classes. The weakest one always counts, so there is at least one. Classes
    without images are left out: nothing is known of them.

    Args:
        evaluation: From `evaluate`, on validation images.
        gap: How far below the mean a weak class is, 0 to 1.
    """
    f1 = np.where(evaluation.support > 0, evaluation.f1, np.inf)
    limit = f1[np.isfinite(f1)].mean() - gap
    order = np.argsort(f1, kind="stable")
    return [int(i) for i in order if f1[i] < limit] or [int(order[0])]


def confusions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Lists all pairs of classes that are confused, as plain data for JSON.

    Returns:
        A dict for each pair, that which costs a class the largest share of
        its images first: `class`, what it is `taken_for`, how many `images`,
        and their `share` of all images of the class.
    """
    names, counts = evaluation.class_names, evaluation.confusion
    found = [
        {
            "class": names[true],
            "taken_for": names[answer],
            "images": int(counts[true, answer]),
            "share": float(counts[true, answer] / evaluation.support[true]),
        }
        for true, answer in np.argwhere(counts)
        if true != answer
    ]
    return sorted(found, key=lambda each: (-each["share"], -each["images"]))


def worst_confusion(evaluation: Evaluation, class_name: str) -> str:
    """Says in a few words what lowers a class's recall or precision most.

    Returns:
        For example `"taken for 'dog' 23 %"`, `"'dog' taken for it 12 %"` (of
        the dogs) where that is the larger number of images, or `""` where
        nothing is confused with the class.
    """
    names, counts = evaluation.class_names, evaluation.confusion
    own = names.index(class_name)
    others = np.delete(np.arange(len(names)), own)
    same = np.full_like(others, own)
    true, answers = np.append(same, others), np.append(others, same)
    images = counts[true, answers]
    if not images.any():
        return ""
    shares = images / np.maximum(evaluation.support[true], 1)
    worst = np.lexsort((true, -shares, -images))[0]
    percent = f"{100 * shares[worst]:.0f} %"
    if true[worst] == own:
        return f"taken for '{names[answers[worst]]}' {percent}"
    return f"'{names[true[worst]]}' taken for it {percent}"
