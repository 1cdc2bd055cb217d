import dataclasses

import numpy as np
import pytest

from kmod.files.run_directory import open_run
from kmod.modular.cnnsplitter.genetic_search import GeneticSearch
from kmod.modular.cnnsplitter.genetic_search import SearchState
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.modular_model import ModularModel

OPTIONS = SearchOptions(
    images=24, population=6, generations=4, retention_target=0.7, elite_rate=0.4
)


@pytest.fixture
def search(source, images):
    return GeneticSearch(ModularModel(source), *images, OPTIONS)


def test_known_individuals_are_not_scored_again(search, monkeypatch):
    counts = []
    score = search.evaluator.scores

    def count(masks, classes):
        counts.append(len(masks))
        return score(masks, classes)

    monkeypatch.setattr(search.evaluator, "scores", count)
    search.run(verbose=0)
    assert counts[0] <= 3 * 6
    assert max(counts[1:]) <= 3 * (6 - 2)  # Two of each class are elites.


def test_search_stops_when_nothing_gets_better(search):
    search.options = dataclasses.replace(OPTIONS, generations=50, patience=2)
    state = search.run(verbose=0)
    assert len(state.history) == state.generation < 50
    assert state.stale == 2


def test_fittest_collaboration_is_never_lost(search):
    history = search.run(verbose=0).history
    assert all(
        later["chosen_fitness"] >= earlier["chosen_fitness"]
        for earlier, later in zip(history, history[1:])
    )
    assert all(row["retention"] <= 0.7 for row in history)


def test_other_images_choose_than_measure_fitness(search):
    evaluators = search.evaluator, search.holdout
    assert [len(each.labels) for each in evaluators] == [24, 24]
    assert search.sensitivity.layers == ("conv_1", "conv_3")
    first, second = (
        each.scores(np.ones((1, 20), "float32"), np.zeros(1, "int64"))
        for each in evaluators
    )
    assert len(np.intersect1d(first, second)) < 4


def test_state_is_read_as_it_was_written(tmp_path):
    bits = np.ones((2, 3, 4), "uint8")
    state = SearchState(
        generation=2,
        population=bits,
        known=bits,
        scores=np.ones((2, 3, 5), "float32"),
        chosen=bits[:, 0],
        chosen_fitness=0.5,
        stale=1,
        history=[{"generation": 1, "fitness": 0.5}],
    )
    run = open_run(tmp_path, {}, resume=False)
    assert SearchState.load(run) is None
    state.save(run)
    read = SearchState.load(run)
    for field in dataclasses.fields(SearchState):
        expected = getattr(state, field.name)
        np.testing.assert_array_equal(getattr(read, field.name), expected)
    assert read.scores.dtype == "float32"
