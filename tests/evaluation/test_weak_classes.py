import dataclasses

import numpy as np
import pytest

from kmod.evaluation.metrics import Evaluation
from kmod.evaluation.weak_classes import weakest_class


@pytest.fixture
def evaluation():
    figures = np.array([0.9, 0.3, 0.0, 0.5])
    return Evaluation(
        class_names=tuple("abcd"),
        accuracy=0.5,
        precision=figures,
        recall=figures,
        f1=figures,
        support=np.array([5, 5, 5, 5]),
        confusion=np.zeros((4, 4), int),
    )


def test_lowest_f1_is_weakest(evaluation):
    assert weakest_class(evaluation) == 2


def test_classes_without_images_are_left_out(evaluation):
    support = np.array([5, 5, 0, 5])
    assert weakest_class(dataclasses.replace(evaluation, support=support)) == 1
