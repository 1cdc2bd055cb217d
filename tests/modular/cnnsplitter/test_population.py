import numpy as np
import pytest

from kmod.modular.cnnsplitter.encoding import encode
from kmod.modular.cnnsplitter.evolution import first_population
from kmod.modular.cnnsplitter.evolution import within_target
from kmod.modular.modular_model import ModularModel


@pytest.fixture
def encoding(source):
    importance = np.random.default_rng(0).random((3, 20))
    return encode(importance, ModularModel(source).placement)


def draw(encoding, class_index, seed=0):
    return first_population(
        encoding,
        class_index,
        np.array([4, 5]),
        30,
        0.6,
        np.random.default_rng([seed, class_index]),
    )


def test_first_candidate_keeps_the_top_and_none_keeps_too_many(encoding):
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


def test_only_what_is_too_much_goes(encoding):
    full = np.ones((5, encoding.num_genes), "uint8")
    few = np.zeros_like(full)
    few[:, 0] = 1
    rng = np.random.default_rng(0)
    cut = within_target(encoding, 0, full, 0.6, rng)
    kept = encoding.retention(0, cut)
    assert kept.max() <= 0.6 and kept.min() > 0.5
    np.testing.assert_array_equal(
        within_target(encoding, 0, few, 0.6, rng), few
    )
    np.testing.assert_array_equal(
        within_target(encoding, 0, full, 1, rng), full
    )
