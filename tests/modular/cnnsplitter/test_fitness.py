import numpy as np
import pytest

from kmod.modular.cnnsplitter.fitness import expected_accuracy
from kmod.modular.cnnsplitter.fitness import swapped_accuracy

LABELS = np.array([0, 1, 2, 1])


def test_expected_accuracy_by_hand():
    scores = np.log([[3.0, 1, 1, 1], [1, 1, 1, 6], [1, 2, 2, 1]])
    expected = np.mean([3 / 5, 1 / 4, 2 / 4, 6 / 8])
    assert expected_accuracy(scores, LABELS) == pytest.approx(expected)


def test_great_scores_do_not_overflow():
    scores = 1e4 * np.eye(3)[:, LABELS]
    assert expected_accuracy(scores, LABELS) == 1
    assert expected_accuracy(-scores, LABELS) == 0


@pytest.mark.parametrize("index", range(3))
def test_swapping_is_scoring_the_new_team(index):
    random = np.random.default_rng(0)
    scores, new = random.normal(size=(3, 4)), random.normal(size=(5, 4))
    found = swapped_accuracy(scores, LABELS, index, new)
    for row, accuracy in zip(new, found, strict=True):
        team = scores.copy()
        team[index] = row
        assert accuracy == pytest.approx(expected_accuracy(team, LABELS))
