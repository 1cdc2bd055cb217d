import dataclasses
import itertools

import numpy as np
import pytest

from kmod.training.cnnsplitter.grading import grade
from kmod.training.cnnsplitter.teams import Pool
from kmod.training.cnnsplitter.teams import Weights
from kmod.training.cnnsplitter.teams import build_teams
from kmod.training.cnnsplitter.teams import pair_distances

WEIGHTS = Weights(0.9, 0.1)


def small_pool(num_classes=3, population=4, num_images=30):
    draw = np.random.default_rng(0)
    labels = np.arange(num_images) % num_classes
    scores = draw.normal(0, 1, (num_classes, population, num_images))
    scores += labels == np.arange(num_classes)[:, None, None]
    masks = draw.integers(0, 2, (num_classes, population, 6))
    distances = pair_distances(masks, np.ones(6))
    return Pool(scores.astype("float32"), distances, labels)


def fitness_of(pool, team):
    classes = np.arange(len(team))
    scores = pool.scores[classes, list(team)]
    accuracy = np.mean(scores.argmax(axis=0) == pool.labels)
    pairs = list(itertools.combinations(classes, 2))
    distance = np.mean(
        [pool.distances[i, team[i], j, team[j]] for i, j in pairs]
    )
    return WEIGHTS.fitness(accuracy, distance)


def all_teams(pool):
    num_classes, population = pool.scores.shape[:2]
    return list(itertools.product(range(population), repeat=num_classes))


def build(pool, least=0.0, limits=(1, 10**6)):
    return build_teams(
        pool, WEIGHTS, lambda classes: least, limits, np.random.default_rng(0)
    )


def test_distances_by_hand():
    masks = np.array([[[1, 1, 0]], [[0, 1, 1]]])
    distances = pair_distances(masks, np.array([1, 2, 1]))
    np.testing.assert_allclose(distances[0, 0, :, 0], [0, 1 - 2 / 4])


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_without_limits_every_team_is_built(num_classes):
    pool = small_pool(num_classes, 3)
    teams = build(pool)
    order = np.argsort(teams.classes)
    assert len(teams.members) == 3**num_classes
    assert np.all(np.diff(teams.fitness) <= 0)
    for members, fitness in zip(teams.members, teams.fitness):
        expected = fitness_of(pool, members[order])
        assert fitness == pytest.approx(expected)


def test_comparing_in_parts_changes_nothing(monkeypatch):
    pool = small_pool()
    whole = build(pool)
    monkeypatch.setattr("kmod.training.cnnsplitter.teams.CELLS", 1)
    np.testing.assert_array_equal(build(pool).members, whole.members)


@pytest.mark.parametrize(
    ("least", "limits", "count"),
    [
        pytest.param(0.0, (1, 7), 7, id="at-most"),
        pytest.param(2.0, (5, 7), 5, id="none-good-enough"),
    ],
)
def test_limits_bound_the_teams(least, limits, count):
    assert len(build(small_pool(), least, limits).members) == count


def test_best_team_and_grades_agree_with_all_teams():
    pool = small_pool()
    grades = grade(pool, build(pool), WEIGHTS)
    teams = all_teams(pool)
    fitness = np.array([fitness_of(pool, team) for team in teams])
    assert grades.fitness == pytest.approx(fitness.max())
    assert fitness_of(pool, grades.team) == pytest.approx(fitness.max())
    for index, member in itertools.product(range(3), range(4)):
        best = max(f for t, f in zip(teams, fitness) if t[index] == member)
        assert grades.of_candidates[index, member] == pytest.approx(best)


def test_climbing_ends_where_distances_are_not_exact():
    pool = small_pool(10, 16, 400)
    masks = np.random.default_rng(1).integers(0, 2, (10, 16, 288))
    distances = pair_distances(
        masks.astype("float32"), np.float32(np.ones(288))
    )
    assert distances.dtype == "float64"
    pool = dataclasses.replace(pool, distances=distances.astype("float32"))
    grades = grade(pool, build(pool, limits=(5, 20)), WEIGHTS)
    assert grades.fitness == pytest.approx(fitness_of(pool, grades.team))


def test_best_team_is_found_although_few_were_built():
    pool = small_pool()
    grades = grade(pool, build(pool, limits=(1, 1)), WEIGHTS)
    former = fitness_of(pool, (0, 0, 0))
    assert grades.fitness >= former
    assert grades.of_candidates.min() > 0
