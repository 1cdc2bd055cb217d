import itertools

import numpy as np
import pytest

from kmod.modular.cnnsplitter.fitness import Weights
from kmod.modular.cnnsplitter.teams import build_teams
from kmod.modular.cnnsplitter.teams import pair_distances

WEIGHTS = Weights(0.9, 0.1)


def fitness_of(pool, team):
    classes = np.arange(len(team))
    scores = pool.scores[classes, list(team)]
    accuracy = np.mean(scores.argmax(axis=0) == pool.labels)
    pairs = list(itertools.combinations(classes, 2))
    distance = np.mean(
        [pool.distances[i, team[i], j, team[j]] for i, j in pairs]
    )
    return WEIGHTS.fitness(accuracy, distance)


def build(pool, least=0.0, limits=(1, 10**6)):
    return build_teams(
        pool, WEIGHTS, lambda classes: least, limits, np.random.default_rng(0)
    )


def test_distances_by_hand():
    masks = np.array([[[1, 1, 0]], [[0, 1, 1]]])
    distances = pair_distances(masks, np.array([1, 2, 1]))
    np.testing.assert_allclose(distances[0, 0, :, 0], [0, 1 - 2 / 4])


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_without_limits_every_team_is_built(small_pool, num_classes):
    pool = small_pool(num_classes, 3)
    teams = build(pool)
    order = np.argsort(teams.classes)
    assert len(teams.members) == 3**num_classes
    assert np.all(np.diff(teams.fitness) <= 0)
    for members, fitness in zip(teams.members, teams.fitness):
        expected = fitness_of(pool, members[order])
        assert fitness == pytest.approx(expected)


def test_comparing_in_parts_changes_nothing(small_pool, monkeypatch):
    pool = small_pool()
    whole = build(pool)
    monkeypatch.setattr("kmod.modular.cnnsplitter.teams.CELLS", 1)
    np.testing.assert_array_equal(build(pool).members, whole.members)


@pytest.mark.parametrize(
    ("least", "limits", "count"),
    [
        pytest.param(0.0, (1, 7), 7, id="at-most"),
        pytest.param(2.0, (5, 7), 5, id="none-good-enough"),
    ],
)
def test_limits_bound_the_teams(small_pool, least, limits, count):
    assert len(build(small_pool(), least, limits).members) == count
