import dataclasses
import sys

import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.modular.cnnsplitter.encoding import encode
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.cnnsplitter.population import first_population
from kmod.modular.cnnsplitter.population import import_pygad
from kmod.modular.cnnsplitter.population import next_population
from kmod.modular.cnnsplitter.population import repair
from kmod.modular.modular_model import ModularModel

FIRST = SearchOptions(population=30, retention_target=0.6)
NEXT = SearchOptions(
    population=6, elite_rate=0.34, mutation_rate=0.2, retention_target=1
)


@pytest.fixture
def encoding(source):
    importance = np.random.default_rng(0).random((3, 20))
    return encode(importance, ModularModel(source).placement)


@pytest.fixture
def population(encoding):
    shape = 6, encoding.num_genes
    return np.random.default_rng(0).integers(0, 2, shape).astype("uint8")


def draw(encoding, class_index, seed=0):
    rng = np.random.default_rng([seed, class_index])
    keep = np.array([4, 5])
    return first_population(encoding, class_index, keep, FIRST, rng)


def draw_next(encoding, population, seed, options=NEXT):
    rng = np.random.default_rng(seed)
    fitness = np.arange(6.0)
    return next_population(encoding, 0, population, fitness, options, rng)


def test_first_individual_keeps_the_top_and_none_keeps_too_many(encoding):
    population = draw(encoding, 0)
    np.testing.assert_array_equal(population[0], encoding.top(np.array([4, 5])))
    assert encoding.retention(0, population).max() <= 0.6
    assert len(np.unique(population, axis=0)) > 20


def test_important_genes_are_drawn_more_often(encoding):
    drawn = draw(encoding, 0)[1:].mean(axis=0)
    assert drawn[encoding.ranks == 0].min() > drawn[encoding.ranks == 7].max()


def test_classes_start_differently_and_seeds_repeat(encoding):
    assert not np.array_equal(draw(encoding, 0)[1:], draw(encoding, 1)[1:])
    np.testing.assert_array_equal(draw(encoding, 1), draw(encoding, 1))


def test_elites_go_on_and_the_rest_is_new(encoding, population):
    drawn = draw_next(encoding, population, 0)
    assert drawn.shape == population.shape and drawn.dtype == "uint8"
    assert set(np.unique(drawn)) <= {0, 1}
    rows = {row.tobytes() for row in drawn}
    assert {population[5].tobytes(), population[4].tobytes()} <= rows
    assert population[0].tobytes() not in rows


def test_only_the_seed_decides(encoding, population):
    first = draw_next(encoding, population, 7)
    np.random.seed(1)
    np.testing.assert_array_equal(first, draw_next(encoding, population, 7))
    assert not np.array_equal(first, draw_next(encoding, population, 8))


def test_offspring_keep_no_more_than_the_target(encoding, population):
    drawn = draw_next(encoding, np.ones_like(population), 0)
    assert encoding.retention(0, drawn).max() > 0.6
    options = dataclasses.replace(NEXT, retention_target=0.6)
    drawn = draw_next(encoding, np.ones_like(population), 0, options)
    assert encoding.retention(0, drawn).max() <= 0.6


def test_only_what_is_too_much_goes(encoding):
    full = np.ones((5, encoding.num_genes), "uint8")
    few = np.zeros_like(full)
    few[:, 0] = 1
    rng = np.random.default_rng(0)
    cut = repair(encoding, 0, full, 0.6, rng)
    kept = encoding.retention(0, cut)
    assert kept.max() <= 0.6 and kept.min() > 0.5
    np.testing.assert_array_equal(repair(encoding, 0, few, 0.6, rng), few)
    np.testing.assert_array_equal(repair(encoding, 0, full, 1, rng), full)


def test_missing_pygad_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygad", None)
    with pytest.raises(UsageError, match=r"pip install 'kmod\[ga\]'"):
        import_pygad()
