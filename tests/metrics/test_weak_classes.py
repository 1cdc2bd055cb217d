import dataclasses

import numpy as np
import pytest

from kmod.metrics.evaluate import Evaluation
from kmod.metrics.weak_classes import weak_classes
from kmod.metrics.weak_classes import weakest_class


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


def test_weak_classes_are_below_the_mean(evaluation):
    assert evaluation.f1.mean() == pytest.approx(0.425)
    assert weak_classes(evaluation) == [2, 1]
    assert weak_classes(evaluation, gap=0.2) == [2]


def test_weakest_class_is_weak_in_any_case(evaluation):
    assert weak_classes(evaluation, gap=0.9) == [2]


def test_weak_classes_have_images(evaluation):
    support = np.array([5, 5, 0, 5])
    without = dataclasses.replace(evaluation, support=support)
    assert weak_classes(without) == [1]
