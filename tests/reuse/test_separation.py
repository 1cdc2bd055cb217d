import numpy as np
import pytest

from kmod.reuse.separation import best_columns
from kmod.reuse.separation import separation

LABELS = np.repeat([0, 1, 2], 40)


def column(label, quality, seed):
    random = np.random.default_rng(seed)
    return quality * (LABELS == label) + random.normal(size=len(LABELS))


def test_separation_is_the_chance_of_the_higher_score():
    scores = np.array([3.0, 1.0, 2.0, 0.0])
    is_class = np.array([True, True, False, False])
    assert separation(scores, is_class) == pytest.approx(3 / 4)


def test_best_column_of_each_class_is_chosen():
    columns = [
        {0: column(0, 0.5, 0), 1: column(0, 4.0, 1)},
        {0: column(1, 4.0, 2), 2: column(1, 0.5, 3)},
        {1: column(2, 3.0, 4)},
    ]
    assert best_columns(columns, LABELS) == [1, 0, 1]


def test_column_that_helps_the_others_wins_over_one_that_does_not():
    # The second column of class 0 is as good as the first one between the
    # classes 0 and 2, and far better where class 1 is unsure.
    blind = np.where(LABELS == 2, -4.0, 4.0)
    seeing = np.where(LABELS == 0, 3.9, -3.9)
    columns = [
        {0: blind, 1: seeing},
        {0: column(1, 0.1, 0)},
        {0: column(2, 3.0, 1)},
    ]
    assert best_columns(columns, LABELS)[0] == 1
