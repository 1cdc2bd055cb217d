import numpy as np
import pytest

from kmod.modular.importance import RIDGE
from kmod.modular.importance import joint_importances

OWN = 0.1


@pytest.fixture
def gradients():
    draw = np.random.default_rng(0)
    return draw.normal(size=(50, 20)) @ draw.normal(size=(20, 20))


def kernels(count):
    return np.ones((1, count))


def one_by_one(gradients, room):
    """Inverts the curvature anew before every removal."""
    moment = gradients.T @ gradients / len(gradients)
    power = np.diag(np.diag(moment))
    curvature = (1 - OWN) * moment + OWN * power
    curvature += RIDGE * np.diag(moment).mean() * np.eye(len(moment))
    left, out = list(range(len(moment))), []
    while True:
        inverse = np.linalg.inv(curvature[np.ix_(left, left)])
        rise = 1 / np.diag(inverse)
        if len(left) <= room:
            return out, dict(zip(left, rise))
        out.append((left.pop(int(rise.argmin())), rise.min()))


def test_importances_are_those_of_an_inverse_worked_out_anew(gradients):
    worth = joint_importances(gradients, kernels(20), np.array([8.0]), OWN)
    out, left = one_by_one(gradients, 8)
    groups = [group for group, _ in out]
    np.testing.assert_array_equal(np.argsort(worth)[:12], groups)
    rises = np.maximum.accumulate([rise for _, rise in out])
    np.testing.assert_allclose(worth[groups], rises, rtol=1e-8)
    least = np.maximum(list(left.values()), rises[-1])
    np.testing.assert_allclose(worth[list(left)], least, rtol=1e-8)


def test_one_of_two_that_do_the_same_goes_and_the_other_stays():
    """By themselves both are worth more than the third."""
    draw = np.random.default_rng(0)
    same, other = draw.normal(size=(2, 200, 1))
    gradients = np.hstack([same, same, 0.9 * other])
    together = joint_importances(gradients, kernels(3), np.array([2.0]), OWN)
    assert np.argsort(together)[0] in (0, 1)
    assert np.sort(together)[1] > 3 * np.sort(together)[0]
    alone = joint_importances(gradients, kernels(3), np.array([2.0]), 1.0)
    assert np.argsort(alone)[0] == 2


def test_alone_it_is_the_mean_squared_gradient(gradients):
    power = (gradients**2).mean(axis=0)
    worth = joint_importances(gradients, kernels(20), np.array([20.0]), 1.0)
    np.testing.assert_allclose(worth, power + RIDGE * power.mean())


def test_dear_groups_are_worth_what_they_cost(gradients):
    """Divided by what they cost they rise in the order of removal."""
    costs = np.array([np.where(np.arange(20) < 10, 2.0, 1.0)])
    worth = joint_importances(gradients, costs, np.array([15.0]), OWN)
    kept = np.argsort(-worth / costs[0])
    spent = np.cumsum(costs[0][kept])
    plain = joint_importances(gradients, kernels(20), np.array([10.0]), OWN)
    assert set(kept[spent <= 15]) != set(np.argsort(-plain)[:10])


def test_every_budget_is_kept(gradients):
    costs = np.array([np.ones(20), np.arange(20.0)])
    budgets = np.array([15.0, 60.0])
    worth = joint_importances(gradients, costs, budgets, OWN)
    order = np.argsort(-worth / (costs / budgets[:, None]).sum(axis=0))
    fits = (np.cumsum(costs[:, order], axis=1) <= budgets[:, None]).all(axis=0)
    kept = set(order[: fits.sum()])
    assert 0 < len(kept) < 15
    worth = joint_importances(gradients, costs[:1], budgets[:1], OWN)
    assert kept != set(np.argsort(-worth)[: len(kept)])


@pytest.mark.parametrize("steps", [0, 3], ids=["none", "zeros"])
def test_without_gradients_all_are_worth_the_same(steps):
    worth = joint_importances(
        np.zeros((steps, 4)), kernels(4), np.array([2.0]), OWN
    )
    np.testing.assert_allclose(worth, RIDGE)
