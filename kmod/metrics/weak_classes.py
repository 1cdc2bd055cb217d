"""Finds the classes that a model gets wrong."""

import numpy as np

from kmod.metrics.evaluate import Evaluation

GAP = 0.1


def weakest_class(evaluation: Evaluation) -> int:
    """Returns the index of the class with the lowest F1.

    Classes without images are left out: nothing is known of them.
    """
    return int(_known_f1(evaluation).argmin())


def weak_classes(evaluation: Evaluation, gap: float = GAP) -> list[int]:
    """Returns the indices of the weak classes, the weakest first.

    A class is weak if its F1 is more than `gap` below the mean F1 of all
    classes. The weakest one always counts, so there is at least one. Classes
    without images are left out.

    Args:
        evaluation: From `evaluate`, on validation images.
        gap: How far below the mean a weak class is, 0 to 1.
    """
    f1 = _known_f1(evaluation)
    limit = f1[np.isfinite(f1)].mean() - gap
    order = np.argsort(f1, kind="stable")
    return [int(i) for i in order if f1[i] < limit] or [int(order[0])]


def _known_f1(evaluation):
    return np.where(evaluation.support > 0, evaluation.f1, np.inf)
