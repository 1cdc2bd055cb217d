import keras
import numpy as np
import pytest
from keras import layers

from kmod.graph import channel_graph
from kmod.modular.mask_schedule import keep_best
from kmod.modular.mask_schedule import top_scores
from kmod.modular.placement import families_of

ONES = np.ones(4, "float32")


@pytest.mark.parametrize(
    ("sizes", "budget", "expected"),
    [
        pytest.param(ONES, 2, [1, 0, 1, 0], id="two"),
        pytest.param(ONES, 2.9, [1, 0, 1, 0], id="not-quite-three"),
        pytest.param(ONES, 4, [1, 1, 1, 1], id="all"),
        pytest.param(ONES, 0, [0, 0, 0, 0], id="none"),
        pytest.param([3, 1, 1, 1], 4, [1, 0, 1, 0], id="large-group"),
        pytest.param([3, 1, 1, 1], 2, [0, 0, 0, 0], id="best-does-not-fit"),
        pytest.param([1, 0, 1, 1], 2, [1, 1, 1, 0], id="free-of-charge"),
    ],
)
def test_top_scores_fit_the_budget(sizes, budget, expected):
    scores = np.array([[9.0, 2.0, 5.0, 1.0]])
    mask = top_scores(scores, (np.array(sizes, "float32"), budget))
    np.testing.assert_array_equal(mask, [expected])


def test_top_scores_fit_both_budgets():
    scores = np.array([[9.0, 5.0, 2.0, 1.0]])
    costs = np.array([[1.0, 1.0, 3.0, 0.0]])
    mask = top_scores(scores, (ONES, 3), (costs, 4))
    np.testing.assert_array_equal(mask, [[1, 1, 0, 0]])


def test_top_scores_of_each_class_by_itself():
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    mask = top_scores(scores, (ONES, 1))
    np.testing.assert_array_equal(mask, [[1, 0, 0, 0], [0, 0, 0, 1]])


def test_equal_scores_do_not_exceed_the_budget():
    assert np.sum(top_scores(np.zeros((1, 4)), (ONES, 3))) == 3


def test_keep_best_revives_the_best_of_an_empty_family():
    mask = np.array([[0.0, 0, 0, 1], [1, 0, 0, 0]], "float32")
    scores = np.array([[1.0, 3, 2, 9], [9, 1, 2, 3]], "float32")
    families = [np.array([0, 1, 2]), np.array([3])]
    kept = keep_best(mask, scores, families)
    np.testing.assert_array_equal(kept, [[0, 1, 0, 1], [1, 0, 0, 1]])


def test_keep_best_of_families_that_overlap():
    families = [np.array([0, 1]), np.array([1, 2])]
    scores = np.array([[1.0, 2, 3]], "float32")
    kept = keep_best(np.zeros((1, 3), "float32"), scores, families)
    np.testing.assert_array_equal(kept, [[0, 1, 0]])


def families(body, fixed=()):
    image = keras.Input((4, 4, 3))
    features = layers.Flatten()(body(image))
    model = keras.Model(image, layers.Dense(2)(features))
    graph = channel_graph(model)
    may_go = graph.kernels.free.copy()
    may_go[list(fixed)] = False
    return [family.tolist() for family in families_of(graph, may_go)]


def conv(kernels=2):
    return layers.Conv2D(kernels, 1)


def residual(x):
    x = conv()(x)
    return layers.Add()([x, conv()(x)])


def concatenation(x):
    x = conv()(x)
    return conv()(layers.Concatenate()([conv()(x), x]))


def beside_the_image(x):
    return layers.Concatenate()([x, conv()(x)])


@pytest.mark.parametrize(
    ("body", "fixed", "expected"),
    [
        pytest.param(
            lambda x: conv()(conv()(x)), [], [[0, 1], [2, 3]], id="each-layer"
        ),
        pytest.param(
            lambda x: conv()(conv()(x)), [0], [[2, 3]], id="one-always-stays"
        ),
        pytest.param(residual, [], [[0, 1]], id="joined"),
        pytest.param(
            concatenation, [], [[0, 1], [2, 3], [4, 5]], id="smallest-only"
        ),
        pytest.param(beside_the_image, [], [[0, 1]], id="before-the-image"),
    ],
)
def test_families(body, fixed, expected):
    assert families(body, fixed) == expected
