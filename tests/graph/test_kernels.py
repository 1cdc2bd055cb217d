import numpy as np
import pytest

from kmod.graph.kernels import KernelTable


@pytest.fixture
def table():
    """Layer a (2 kernels), b (3), c (2); c's are joined with a's."""
    return KernelTable(
        ("a", "b", "c"),
        np.array([2, 3, 2]),
        np.array([0, 1, 2, 3, 4, 0, 1]),
        np.array([True, False, True, True, True]),
    )


def test_counts(table):
    assert len(table) == table.num_kernels == 7
    assert table.num_groups == 5
    assert table.offsets.tolist() == [0, 2, 5]


def test_removable_follows_groups(table):
    assert table.removable.astype(int).tolist() == [1, 0, 1, 1, 1, 1, 0]


def test_ids_of(table):
    assert table.ids_of("b").tolist() == [2, 3, 4]
    assert table.ids_of("c").tolist() == [5, 6]


def test_rows(table):
    assert table.rows() == [
        (0, "a", 0, 0),
        (1, "a", 1, 1),
        (2, "b", 0, 2),
        (3, "b", 1, 3),
        (4, "b", 2, 4),
        (5, "c", 0, 0),
        (6, "c", 1, 1),
    ]


def test_by_layer(table):
    mask = np.array([1, 0, 0, 1, 1, 1, 0])
    assert table.by_layer(mask) == {"a": (0,), "b": (1, 2), "c": (0,)}
