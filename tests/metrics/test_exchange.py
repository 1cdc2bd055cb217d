import numpy as np
import pytest

from kmod.metrics.exchange import ABSENT
from kmod.metrics.exchange import exchange_cost
from kmod.metrics.exchange import expected_exchange_cost

# Six images of three classes; the third of class 1 is taken for class 0.
LABELS = np.array([0, 0, 1, 1, 1, 2])
SCORES = np.array(
    [[3, 1, 0], [2, 1, 0], [0, 3, 1], [1, 2, 0], [2, 1, 0], [0, 1, 4.0]]
)


def test_cost_of_other_scores_by_hand():
    found = exchange_cost(SCORES, LABELS, 0, np.array([0, 2, 4, 0, 0, 9.0]))
    # Image 0 goes to 1, image 2 and 5 to 0, image 4 comes right.
    assert found.accuracy == pytest.approx((5 - 3) / 6)
    assert found.others == pytest.approx((3 - 2) / 4)
    assert found.f1 == pytest.approx(2 * 2 / 5 - 2 * 1 / 5)
    assert found.broken == pytest.approx(3 / 6)
    np.testing.assert_allclose(found.confused, [0, 1 / 6, 1 / 6])


def test_draws_are_averaged():
    same, absent = SCORES[:, 0], np.full(6, ABSENT)
    found = exchange_cost(SCORES, LABELS, 0, np.stack([same, absent]))
    whole = exchange_cost(SCORES, LABELS, 0, absent)
    assert found.accuracy == pytest.approx(whole.accuracy / 2)


def test_others_gain_what_a_missing_module_took():
    found = exchange_cost(SCORES, LABELS, 0, np.full(6, ABSENT))
    assert found.others == pytest.approx(-1 / 4)


def drawn(seed=0):
    """Scores of three classes, 0 and 1 alike, and what two modules share."""
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 400)
    scores = random.normal(size=(1200, 3))
    scores[np.arange(1200), labels] += np.array([2.0, 2.0, 9.0])[labels]
    return scores, labels


def test_module_that_errs_as_another_costs_most():
    scores, labels = drawn()
    # On hard images both are low, so that their difference is as ever.
    shared = 3 * np.random.default_rng(1).normal(size=1200)
    scores[:, :2] += shared[:, None]
    costs = [
        expected_exchange_cost(scores, labels, index) for index in range(3)
    ]
    assert min(costs[0].accuracy, costs[1].accuracy) > 0.03
    assert costs[0].confused.argmax() == 1
    assert costs[2].accuracy < costs[0].accuracy / 2


def test_independent_module_costs_nothing():
    scores, labels = drawn()
    found = expected_exchange_cost(scores, labels, 0, likeness=0.0)
    assert abs(found.accuracy) < 0.01


def test_same_ranks_cost_nothing_and_seeds_repeat():
    scores, labels = drawn()
    same = expected_exchange_cost(scores, labels, 0, likeness=1.0)
    assert same.accuracy == 0 and not same.confused.any()
    first, again, other = (
        expected_exchange_cost(scores, labels, 0, draws=3, seed=seed)
        for seed in (4, 4, 5)
    )
    assert first.accuracy == again.accuracy != other.accuracy
