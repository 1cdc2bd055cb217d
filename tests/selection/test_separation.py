import numpy as np
import pytest

from kmod.selection import separation as separation_module
from kmod.selection.separation import best_columns
from kmod.selection.separation import separation

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


@pytest.mark.parametrize(("finalists", "chosen"), [(2, 1), (1, 0)])
def test_finalist_that_helps_the_others_wins(monkeypatch, finalists, chosen):
    monkeypatch.setattr(separation_module, "FINALISTS", finalists)
    # The first column of class 0 separates it a little better, the second one
    # where class 2's own module knows nothing.
    noise = np.random.default_rng(0).normal(size=len(LABELS))
    first = np.choose(LABELS, [noise + 1, noise - 8, noise])
    second = np.choose(LABELS, [noise + 0.9, noise, noise - 8])
    columns = [
        {0: first, 1: second},
        {0: column(1, 9.0, 1)},
        {0: column(2, 0.1, 2)},
    ]
    is_class = LABELS == 0
    assert separation(first, is_class) > separation(second, is_class)
    assert best_columns(columns, LABELS)[0] == chosen
