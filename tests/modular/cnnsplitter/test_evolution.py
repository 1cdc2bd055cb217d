import sys

import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.modular.cnnsplitter.evolution import check_pygad
from kmod.modular.cnnsplitter.evolution import next_population
from kmod.modular.cnnsplitter.options import SearchOptions

OPTIONS = SearchOptions(population=6, elites=0.34, mutation=0.2)


@pytest.fixture
def population():
    return np.random.default_rng(0).integers(0, 2, (6, 20)).astype("uint8")


def test_elites_go_on_and_the_rest_is_new(population):
    fitness = np.arange(6.0)
    drawn = next_population(population, fitness, OPTIONS, 0)
    assert drawn.shape == population.shape and drawn.dtype == "uint8"
    assert set(np.unique(drawn)) <= {0, 1}
    rows = {row.tobytes() for row in drawn}
    assert {population[5].tobytes(), population[4].tobytes()} <= rows
    assert population[0].tobytes() not in rows


def test_only_the_seed_decides(population):
    fitness = np.arange(6.0)
    first = next_population(population, fitness, OPTIONS, 7)
    np.random.seed(1)
    np.testing.assert_array_equal(
        first, next_population(population, fitness, OPTIONS, 7)
    )
    other = next_population(population, fitness, OPTIONS, 8)
    assert not np.array_equal(first, other)


def test_missing_pygad_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygad", None)
    with pytest.raises(UsageError, match=r"pip install kmod\[ga\]"):
        check_pygad()
