import dataclasses
import itertools

import numpy as np
import pytest

from kmod.modular.cnnsplitter.collaborations import FitnessWeights
from kmod.modular.cnnsplitter.collaborations import assign_fitness
from kmod.modular.cnnsplitter.collaborations import build_collaborations
from kmod.modular.cnnsplitter.collaborations import expected_accuracy
from kmod.modular.cnnsplitter.collaborations import jaccard_distances
from kmod.modular.cnnsplitter.collaborations import swapped_accuracy

WEIGHTS = FitnessWeights(0.9, 0.1)
LABELS = np.array([0, 1, 2, 1])


def counted_accuracy(scores, labels):
    return np.mean(scores.argmax(axis=0) == labels)


def fitness_of(population, members, accuracy=expected_accuracy):
    classes = np.arange(len(members))
    scores = population.scores[classes, list(members)]
    pairs = list(itertools.combinations(classes, 2))
    distance = np.mean(
        [population.distances[i, members[i], j, members[j]] for i, j in pairs]
    )
    return WEIGHTS.fitness(accuracy(scores, population.labels), distance)


def build(population, least=0.0, limits=(1, 10**6)):
    return build_collaborations(
        population,
        WEIGHTS,
        lambda classes: least,
        limits,
        np.random.default_rng(0),
    )


def test_distances_by_hand():
    masks = np.array([[[1, 1, 0]], [[0, 1, 1]]])
    distances = jaccard_distances(masks, np.array([1, 2, 1]))
    np.testing.assert_allclose(distances[0, 0, :, 0], [0, 1 - 2 / 4])


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_without_limits_every_collaboration_is_built(
    small_population, num_classes
):
    population = small_population(num_classes, 3)
    built = build(population)
    order = np.argsort(built.classes)
    assert len(built.members) == 3**num_classes
    assert np.all(np.diff(built.fitness) <= 0)
    for members, fitness in zip(built.members, built.fitness):
        expected = fitness_of(population, members[order], counted_accuracy)
        assert fitness == pytest.approx(expected)


def test_comparing_in_parts_changes_nothing(small_population, monkeypatch):
    population = small_population()
    whole = build(population)
    monkeypatch.setattr("kmod.modular.cnnsplitter.collaborations.CELLS", 1)
    np.testing.assert_array_equal(build(population).members, whole.members)


@pytest.mark.parametrize(
    ("least", "limits", "count"),
    [
        pytest.param(0.0, (1, 7), 7, id="at-most"),
        pytest.param(2.0, (5, 7), 5, id="none-good-enough"),
    ],
)
def test_limits_bound_the_collaborations(
    small_population, least, limits, count
):
    assert len(build(small_population(), least, limits).members) == count


def test_expected_accuracy_by_hand():
    scores = np.log([[3.0, 1, 1, 1], [1, 1, 1, 6], [1, 2, 2, 1]])
    expected = np.mean([3 / 5, 1 / 4, 2 / 4, 6 / 8])
    assert expected_accuracy(scores, LABELS) == pytest.approx(expected)


def test_great_scores_do_not_overflow():
    scores = 1e4 * np.eye(3)[:, LABELS]
    assert expected_accuracy(scores, LABELS) == 1
    assert expected_accuracy(-scores, LABELS) == 0


@pytest.mark.parametrize("index", range(3))
def test_swapping_is_scoring_the_new_collaboration(index):
    random = np.random.default_rng(0)
    scores, new = random.normal(size=(3, 4)), random.normal(size=(5, 4))
    found = swapped_accuracy(scores, LABELS, index, new)
    for row, accuracy in zip(new, found, strict=True):
        swapped = scores.copy()
        swapped[index] = row
        expected = expected_accuracy(swapped, LABELS)
        assert accuracy == pytest.approx(expected)


def test_fitness_agrees_with_all_collaborations(small_population):
    population = small_population()
    fitness = assign_fitness(population, build(population), WEIGHTS)
    every = list(itertools.product(range(4), repeat=3))
    values = np.array([fitness_of(population, members) for members in every])
    assert fitness.of_best == pytest.approx(values.max())
    best = fitness_of(population, fitness.best)
    assert best == pytest.approx(values.max())
    for index, member in itertools.product(range(3), range(4)):
        best = max(f for m, f in zip(every, values) if m[index] == member)
        assert fitness.of_individuals[index, member] == pytest.approx(best)


def test_climbing_ends_where_distances_are_not_exact(small_population):
    population = small_population(10, 16, 400)
    masks = np.random.default_rng(1).integers(0, 2, (10, 16, 288))
    distances = jaccard_distances(
        masks.astype("float32"), np.float32(np.ones(288))
    )
    assert distances.dtype == "float64"
    population = dataclasses.replace(
        population, distances=distances.astype("float32")
    )
    built = build(population, limits=(5, 20))
    fitness = assign_fitness(population, built, WEIGHTS)
    expected = fitness_of(population, fitness.best)
    assert fitness.of_best == pytest.approx(expected)


def test_best_collaboration_is_found_although_few_were_built(small_population):
    population = small_population()
    built = build(population, limits=(1, 1))
    fitness = assign_fitness(population, built, WEIGHTS)
    former = fitness_of(population, (0, 0, 0))
    assert fitness.of_best >= former
    assert fitness.of_individuals.min() > 0


def test_individuals_that_get_as_many_right_are_told_apart(small_population):
    population = small_population(population=2)
    scores = np.where(population.labels == np.arange(3)[:, None], 1.0, -1.0)
    scores = np.stack([scores, 2 * scores], axis=1)  # All right, or surely.
    population = dataclasses.replace(
        population,
        scores=scores,
        distances=np.zeros_like(population.distances),
    )
    fitness = assign_fitness(population, build(population), WEIGHTS)
    assert fitness.best.tolist() == [1, 1, 1]
