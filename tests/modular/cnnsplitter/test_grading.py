import dataclasses
import itertools

import numpy as np
import pytest

from kmod.modular.cnnsplitter.fitness import Weights
from kmod.modular.cnnsplitter.fitness import expected_accuracy
from kmod.modular.cnnsplitter.grading import grade
from kmod.modular.cnnsplitter.teams import build_teams
from kmod.modular.cnnsplitter.teams import pair_distances

WEIGHTS = Weights(0.9, 0.1)


def fitness_of(pool, team):
    classes = np.arange(len(team))
    scores = pool.scores[classes, list(team)]
    pairs = list(itertools.combinations(classes, 2))
    distance = np.mean(
        [pool.distances[i, team[i], j, team[j]] for i, j in pairs]
    )
    accuracy = expected_accuracy(scores, pool.labels)
    return WEIGHTS.fitness(accuracy, distance)


def build(pool, limits=(1, 10**6)):
    rng = np.random.default_rng(0)
    return build_teams(pool, WEIGHTS, lambda classes: 0.0, limits, rng)


def test_best_team_and_grades_agree_with_all_teams(small_pool):
    pool = small_pool()
    grades = grade(pool, build(pool), WEIGHTS)
    teams = list(itertools.product(range(4), repeat=3))
    fitness = np.array([fitness_of(pool, team) for team in teams])
    assert grades.fitness == pytest.approx(fitness.max())
    assert fitness_of(pool, grades.team) == pytest.approx(fitness.max())
    for index, member in itertools.product(range(3), range(4)):
        best = max(f for t, f in zip(teams, fitness) if t[index] == member)
        assert grades.of_candidates[index, member] == pytest.approx(best)


def test_climbing_ends_where_distances_are_not_exact(small_pool):
    pool = small_pool(10, 16, 400)
    masks = np.random.default_rng(1).integers(0, 2, (10, 16, 288))
    distances = pair_distances(
        masks.astype("float32"), np.float32(np.ones(288))
    )
    assert distances.dtype == "float64"
    pool = dataclasses.replace(pool, distances=distances.astype("float32"))
    grades = grade(pool, build(pool, limits=(5, 20)), WEIGHTS)
    assert grades.fitness == pytest.approx(fitness_of(pool, grades.team))


def test_best_team_is_found_although_few_were_built(small_pool):
    pool = small_pool()
    grades = grade(pool, build(pool, limits=(1, 1)), WEIGHTS)
    former = fitness_of(pool, (0, 0, 0))
    assert grades.fitness >= former
    assert grades.of_candidates.min() > 0


def test_candidates_that_get_as_many_right_are_told_apart(small_pool):
    pool = small_pool(population=2)
    scores = np.where(pool.labels == np.arange(3)[:, None], 1.0, -1.0)
    scores = np.stack([scores, 2 * scores], axis=1)  # All right, or surely.
    pool = dataclasses.replace(
        pool, scores=scores, distances=np.zeros_like(pool.distances)
    )
    assert grade(pool, build(pool), WEIGHTS).team.tolist() == [1, 1, 1]
