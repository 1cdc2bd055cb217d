"""Grades candidates by the best teams that they are in."""

import dataclasses

import numpy as np

from kmod.modular.cnnsplitter.fitness import Weights
from kmod.modular.cnnsplitter.fitness import expected_accuracy
from kmod.modular.cnnsplitter.fitness import swapped_accuracy
from kmod.modular.cnnsplitter.teams import Pool
from kmod.modular.cnnsplitter.teams import Teams

EPSILON = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Grades:
    """How good a generation is.

    Attributes:
        team: Integer array `(num_classes,)`: the fittest team's members.
        fitness: Float, its fitness.
        of_candidates: Array `(num_classes, population)`: fitness of the best
            team that each candidate is in.
    """

    team: np.ndarray
    fitness: float
    of_candidates: np.ndarray


def grade(pool: Pool, teams: Teams, weights: Weights) -> Grades:
    """Finds the fittest team and grades every candidate.

    Fitness is by expected accuracy. The fittest of the teams built, or the
    last generation's if that is fitter, changes one member at a time as long
    as that helps. A candidate is then in the teams built that hold it, and in
    the fittest team in place of its class's member.

    Args:
        pool: The candidates; each class's first is its member of the last
            generation's fittest team.
        teams: Teams for all classes that were built of them.
        weights: What makes a team fit.

    Returns:
        The `Grades`.
    """
    order = np.argsort(teams.classes)
    former = np.zeros((1, len(order)), int)
    built = np.concatenate([former, teams.members[:, order]])
    fitness = np.array([_team_fitness(pool, team, weights) for team in built])
    team, swaps = _climb(pool, built[fitness.argmax()], weights)
    graded = swaps.copy()
    for index, members in enumerate(built.T):
        np.maximum.at(graded[index], members, fitness)
    return Grades(team, float(swaps[0, team[0]]), graded)


def _team_fitness(pool, team, weights):
    classes = np.arange(len(team))
    between = pool.distances[classes[:, None], team[:, None], classes, team]
    pairs = np.triu_indices(len(team), 1)
    accuracy = expected_accuracy(pool.scores[classes, team], pool.labels)
    return weights.fitness(accuracy, between[pairs].mean())


def _climb(pool, team, weights):
    """Changes members while that helps; returns team and swap fitness."""
    classes = np.arange(len(team))
    swaps = _swap_fitness(pool, team, weights)
    for _ in range(swaps.size):  # Ties between scores must not go round.
        index, member = np.unravel_index(swaps.argmax(), swaps.shape)
        if swaps[index, member] <= swaps[classes, team].max() + EPSILON:
            break
        team = team.copy()
        team[index] = member
        swaps = _swap_fitness(pool, team, weights)
    return team, swaps


def _swap_fitness(pool, team, weights):
    """Returns the team's fitness with each candidate in turn in it."""
    classes = np.arange(len(team))
    scores = pool.scores[classes, team]
    between = pool.distances[classes[:, None], team[:, None], classes, team]
    fitness = np.empty(pool.scores.shape[:2])
    num_pairs = len(team) * (len(team) - 1) / 2
    for index in classes:
        others = np.delete(classes, index)
        accuracy = swapped_accuracy(
            scores, pool.labels, index, pool.scores[index]
        )
        distance = between[np.ix_(others, others)].sum() / 2
        distance = distance + pool.distances[index][
            :, others, team[others]
        ].sum(axis=1)
        fitness[index] = weights.fitness(accuracy, distance / num_pairs)
    return fitness
