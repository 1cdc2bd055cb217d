import dataclasses

import numpy as np
import pytest

from kmod.modular.cnnsplitter.choice import KernelChoice
from kmod.modular.cnnsplitter.genetic_search import GeneticSearch
from kmod.modular.cnnsplitter.genetic_search import SearchState
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.modular_model import ModularModel
from kmod.modular.run_directory import open_run

OPTIONS = SearchOptions(
    images=24, population=6, generations=4, retention_target=0.7, elites=0.4
)


@pytest.fixture
def prepared(source, images):
    return KernelChoice(ModularModel(source), *images, OPTIONS).prepared


def search(prepared, **changes):
    options = dataclasses.replace(OPTIONS, **changes)
    parts = (prepared.genes, prepared.fitness, prepared.choice)
    return GeneticSearch(*parts, options, seed=0)


def test_known_candidates_are_not_scored_again(prepared, monkeypatch):
    counts = []
    score = prepared.fitness.score

    def count(masks, classes):
        counts.append(len(masks))
        return score(masks, classes)

    monkeypatch.setattr(prepared.fitness, "score", count)
    search(prepared).run(verbose=0)
    assert counts[0] <= 3 * 6
    assert max(counts[1:]) <= 3 * (6 - 2)  # Two of each class are elites.


def test_search_stops_when_nothing_gets_better(prepared):
    state = search(prepared, generations=50, patience=2).run(verbose=0)
    assert len(state.history) == state.generation < 50
    assert state.stale == 2


def test_fittest_team_is_never_lost(prepared):
    history = search(prepared).run(verbose=0).history
    assert all(
        later["chosen_fitness"] >= earlier["chosen_fitness"]
        for earlier, later in zip(history, history[1:])
    )
    assert all(row["retention"] <= 0.7 for row in history)


def test_other_images_choose_than_measure_fitness(prepared):
    assert len(prepared.fitness.labels) == len(prepared.choice.labels) == 24
    first, second = (
        judges.score(np.ones((1, 20), "float32"), np.zeros(1, "int64"))
        for judges in (prepared.fitness, prepared.choice)
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
        accuracy=0.25,
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
