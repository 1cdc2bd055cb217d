"""Parts of labelled images: held-out parts, classes, uneven classes."""

from collections.abc import Sequence

import numpy as np

from kmod.data.disk_arrays import take
from kmod.data.image_data import LabelledImages
from kmod.errors import UsageError


def hold_out(
    images: LabelledImages, fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Splits images in two, with every class in proportion.

    Args:
        images: Images to split.
        fraction: Share of the images to hold out, above 0 and below 1.
        seed: Integer; the same seed gives the same split.

    Returns:
        Tuple `(rest, held_out)`, both in the order of `images`.

    Raises:
        UsageError: If `fraction` is not above 0 and below 1.
    """
    rest, held_out = hold_out_indices(images.labels, fraction, seed)
    return images.take(rest), images.take(held_out)


def hold_out_indices(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the images that `hold_out` tells apart."""
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise UsageError(
            "The share of images to hold out must be above 0 and below 1. "
            f"Received: {fraction}. A tenth, 0.1, is usual."
        )
    rest, held_out = train_test_split(
        np.arange(len(labels)),
        test_size=fraction,
        stratify=labels,
        random_state=seed,
    )
    return np.sort(rest), np.sort(held_out)


def class_subset(
    images: LabelledImages, classes: Sequence[int]
) -> LabelledImages:
    """Keeps the images of some classes and numbers these classes anew.

    Args:
        images: Images of any classes.
        classes: Class indices to keep. The first becomes class 0 of the
            result, the second class 1, and so on.

    Returns:
        The kept images in their order, with new labels.

    Raises:
        UsageError: If a class is named twice or has no image.
    """
    absent = sorted(set(classes) - set(images.labels.tolist()))
    if absent or len(set(classes)) != len(classes):
        raise UsageError(
            "`classes` must name classes that have images, each once. "
            f"Received: classes={list(classes)}, without images: {absent}. "
            f"Classes with images: {np.unique(images.labels).tolist()}."
        )
    kept, labels = class_subset_indices(images.labels, classes)
    return LabelledImages(take(images.images, kept), labels)


def class_subset_indices(
    labels: np.ndarray, classes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the images of some classes.

    Returns:
        Tuple of them and of their new labels.
    """
    matches = labels[:, None] == np.asarray(classes)
    kept = np.flatnonzero(matches.any(axis=1))
    return kept, matches[kept].argmax(axis=1)


def dirichlet_subset(
    images: LabelledImages,
    num_classes: int,
    seed: int,
    *,
    concentration: float = 1.0,
    min_count: int = 100,
    max_tries: int = 1000,
) -> LabelledImages:
    """Draws a subset in which the classes are unevenly frequent.

    Shares of the classes come from a Dirichlet distribution and are scaled so
    that one class stays whole. Draws repeat until every class has `min_count`
    images. The procedure and its random stream are those of GradSplitter, so
    its seeds give its subsets.

    Args:
        images: Images to draw from.
        num_classes: Integer, number of classes.
        seed: Integer, the estimator's number in the paper.
        concentration: Parameter of the distribution; smaller is more uneven.
            The paper takes 1 for CIFAR-10 and 0.5 for SVHN.
        min_count: Least number of images of a class. The paper takes 100 for
            CIFAR-10 and 10 for SVHN.
        max_tries: Draws after which to give up.

    Returns:
        The subset, in random order.

    Raises:
        UsageError: If no draw in `max_tries` leaves every class `min_count`
            images.

    Reference:

    - [Reusing CNN models through modularization and
      composition, 2023](https://arxiv.org/abs/2311.04438)
    """
    random = np.random.RandomState(seed)
    members = [np.flatnonzero(images.labels == c) for c in range(num_classes)]
    for _ in range(max_tries):
        kept = _draw(random, members, concentration)
        if min(map(len, kept)) >= min_count:
            indices = np.concatenate(kept)
            random.shuffle(indices)
            return images.take(indices)
    raise UsageError(
        f"No draw of {max_tries} left every class at least "
        f"min_count={min_count} images. Received: seed={seed}, "
        f"concentration={concentration}, a smallest class of "
        f"{min(map(len, members))} images. Lower `min_count` or raise "
        "`concentration`."
    )


def _draw(random, members, concentration):
    # Shuffling is part of a draw even if the draw is refused: it moves the
    # random stream on, and the paper's subsets depend on that.
    shares = random.dirichlet(np.full(len(members), concentration))
    shares = shares / shares.max()
    shuffled = [random.permutation(indices) for indices in members]
    return [
        indices[: int(share * len(indices))]
        for share, indices in zip(shares, shuffled)
    ]
