"""Finds the class that a model gets wrong."""

import numpy as np

from kmod.evaluation.metrics import Evaluation


def weakest_class(evaluation: Evaluation) -> int:
    """Returns the index of the class with the lowest F1.

    Classes without images are left out: nothing is known of them.
    """
    known = evaluation.support > 0
    return int(np.where(known, evaluation.f1, np.inf).argmin())
