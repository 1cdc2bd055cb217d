import numpy as np

from kmod.modular.losses import UNSEEN
from kmod.modular.modular_model import by_class
from kmod.modular.modular_model import sample_rows


def draw(labels, num_classes=5, num_rows=3, seed=0):
    return np.array(sample_rows(np.array(labels), num_classes, num_rows, seed))


def test_own_class_comes_first():
    labels = np.arange(100) % 5
    rows = draw(labels)
    assert rows.shape == (100, 3)
    np.testing.assert_array_equal(rows[:, 0], labels)


def test_no_class_comes_twice():
    for row in draw(np.arange(100) % 5, num_rows=4):
        assert len(set(row)) == 4
        assert set(row) <= set(range(5))


def test_as_many_rows_as_classes_are_all_classes():
    rows = draw([3, 0], num_rows=5)
    np.testing.assert_array_equal(np.sort(rows), [np.arange(5)] * 2)


def test_others_come_equally_often():
    others = draw(np.full(8000, 2))[:, 1:]
    shares = np.bincount(others.ravel(), minlength=5) / 8000
    assert shares[2] == 0
    np.testing.assert_allclose(shares[[0, 1, 3, 4]], 0.5, atol=0.03)


def test_seed_decides():
    labels = np.zeros(50, int)
    np.testing.assert_array_equal(draw(labels, seed=1), draw(labels, seed=1))
    assert np.any(draw(labels, seed=1) != draw(labels, seed=2))


def test_scores_go_to_the_columns_of_their_classes():
    scores = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    table = by_class(scores, np.array([[2, 0], [1, 2]]), 3)
    expected = [[2, UNSEEN, 1], [UNSEEN, 3, 4]]
    np.testing.assert_array_equal(table, np.array(expected, "float32"))
