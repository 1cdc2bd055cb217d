import keras
import numpy as np
import pytest
from keras import layers

from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph.sizes import layer_macs
from kmod.modular.macs import Macs
from kmod.modular.mask_schedule import ScheduledMasks
from kmod.modular.placement import place
from kmod.modular.placement import to_groups


@pytest.fixture
def model():
    """Layers a and b, joined (2 kernels each), c pinned (2), d free (2)."""

    def conv(name):
        return layers.Conv2D(2, 1, name=name)

    image = keras.Input((4, 4, 3))
    a = conv("a")(image)
    c = conv("c")(layers.Add()([a, conv("b")(a)]))
    d = conv("d")(layers.Softmax()(c))
    features = layers.GlobalAveragePooling2D()(d)
    return keras.Model(image, layers.Dense(2)(features))


@pytest.fixture
def graph(model):
    return channel_graph(model)


@pytest.fixture
def placement(graph):
    return place(graph, None, scale_and_shift=False)


@pytest.fixture
def macs(model, graph, placement):
    return Macs(graph, placement, layer_macs(model))


@pytest.fixture
def masks_of(placement, macs):
    def make(recipe):
        masks = ScheduledMasks(2, placement, recipe, macs)
        masks.start(10)
        return masks

    return make


def test_groups_of_the_fixture(graph, placement):
    assert graph.kernels.groups.tolist() == [0, 1, 0, 1, 2, 3, 4, 5]
    assert placement.may_go.tolist() == [True, True, False, False, True, True]


def test_masks_by_kernel_become_masks_by_group(graph, placement):
    masks = np.array([[1, 0, 1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 0]])
    groups = to_groups(masks, graph.kernels, placement, 2)
    expected = [[1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0]]
    np.testing.assert_array_equal(groups, expected)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        pytest.param(
            [1, 1, 1, 1, 1, 1, 1, 2],
            r"0/1 arrays of shape \(2, 8\).*values=\[0, 1, 2\]",
            id="values",
        ),
        pytest.param(
            [1, 0, 1, 1, 1, 1, 1, 1],
            r"joined.*at kernel 1 \(number 1 of layer 'a'\) in class 1",
            id="group",
        ),
        pytest.param(
            [1, 1, 1, 1, 1, 0, 1, 1],
            "pinned kernels must be kept.* kernel 5 .*layer 'c'.* class 1",
            id="pinned",
        ),
        pytest.param(
            [1, 1, 1, 1, 1, 1, 0, 0],
            "at least one kernel.*none of layer 'd' in class 1",
            id="empty-layer",
        ),
    ],
)
def test_masks_are_checked(graph, placement, second, message):
    masks = np.array([[0, 1, 0, 1, 1, 1, 1, 1], second])
    with pytest.raises(UsageError, match=message):
        to_groups(masks, graph.kernels, placement, 2)


def test_shape_is_checked(graph, placement):
    with pytest.raises(UsageError, match=r"Received: shape=\(2, 7\)"):
        to_groups(np.ones((2, 7)), graph.kernels, placement, 2)


def test_masks_in_use_are_those_of_the_last_step(masks_of, quick):
    masks = masks_of(quick(retention_target=0.5))
    values = np.array([[1, 0, 1, 1, 1, 0]] * 2, "float32")
    masks.set_masks(values)
    np.testing.assert_array_equal(masks(), values)
    np.testing.assert_array_equal(masks.mask_scores, values)
    assert masks.retention() == pytest.approx(5 / 8)


def test_masks_of_very_many_classes_change_every_few_steps(
    masks_of, quick, monkeypatch
):
    monkeypatch.setattr("kmod.modular.mask_schedule.SORTED_AT_ONCE", 2)
    monkeypatch.setattr("kmod.modular.mask_schedule.LEAST_CHANGES", 4)
    masks = masks_of(
        quick(retention_target=5 / 8, warm_up=0.0, removal_end=0.5)
    )
    masks.mask_scores.assign([[20, 1, 0, 0, 9, 8], [1, 20, 0, 0, 8, 9]])
    masks.start(24)
    rates = [1.0]
    for _ in range(24):
        masks(training=True)
        rates.append(masks.retention())
    changes = 1 + np.flatnonzero(np.diff(rates))
    assert len(changes) and not np.any(changes % 6)
    assert rates[-1] <= 5 / 8


def test_masks_that_are_not_sorted_change_in_every_step(
    masks_of, quick, monkeypatch
):
    monkeypatch.setattr("kmod.modular.mask_schedule.SORTED_AT_ONCE", 1)
    monkeypatch.setattr("kmod.modular.mask_schedule.LEAST_CHANGES", 1)
    masks = masks_of(quick(retention_target=None))
    masks.mask_scores.assign([[-1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, -1]])
    masks(training=True)
    assert np.array(masks.mask)[0, 0] == 0


def test_target_is_reached_by_the_schedule(masks_of, quick):
    recipe = quick(retention_target=5 / 8, warm_up=0.2, removal_end=0.6)
    masks = masks_of(recipe)
    masks.mask_scores.assign([[20, 1, 0, 0, 9, 8], [1, 20, 0, 0, 8, 9]])
    rates = []
    for _ in range(10):
        masks(training=True)
        rates.append(masks.retention())
    assert rates[:2] == [1, 1]
    assert rates == sorted(rates, reverse=True)
    assert rates[6:] == [5 / 8] * 4


def test_what_may_not_go_stays(masks_of, quick):
    masks = masks_of(quick(retention_target=0.5))
    masks.mask_scores.assign([[9, 8, 0, 0, 7, 6]] * 2)
    for _ in range(10):
        masks(training=True)
    np.testing.assert_array_equal(np.array(masks.mask)[:, 2:4], np.ones((2, 2)))


def test_a_groups_importance_is_shared_by_its_kernels(masks_of, quick):
    """Groups 0 and 1 have two kernels each, groups 4 and 5 one."""
    masks = masks_of(quick(retention_target=6 / 8))
    masks.mask_scores.assign([[12, 10, 1, 1, 8, 6]] * 2)
    for _ in range(10):
        masks(training=True)
    np.testing.assert_array_equal(masks.mask, [[1, 0, 1, 1, 1, 1]] * 2)


def test_what_is_out_stays_out(masks_of, quick):
    masks = masks_of(quick(retention_target=6 / 8, removal_end=0.5))
    masks.mask_scores.assign([[12, 10, 1, 1, 8, 6]] * 2)
    for _ in range(5):
        masks(training=True)
    masks.mask_scores.assign([[1, 90, 1, 1, 2, 3]] * 2)
    for _ in range(5):
        masks(training=True)
    np.testing.assert_array_equal(masks.mask, [[1, 0, 1, 1, 1, 1]] * 2)


def test_both_targets_are_kept(masks_of, macs, quick):
    recipe = quick(retention_target=1.0, macs_target=1.4)
    masks = masks_of(recipe)
    assert float(macs.of_composition(masks.mask.value)) > 1.5
    masks.mask_scores.assign([[9, 1, 1, 1, 9, 8]] * 2)
    for _ in range(10):
        masks(training=True)
    assert float(macs.of_composition(masks.mask.value)) <= 1.4
    assert 0.5 < masks.retention() < 1


def test_scores_above_zero_keep_without_a_target(masks_of, quick):
    masks = masks_of(quick(retention_target=None))
    np.testing.assert_array_equal(masks.mask_scores, np.ones((2, 6)))
    masks.mask_scores.assign([[-1, 1, -1, 1, -2, -1], [1, -1, 1, 1, 1, -1]])
    masks(training=True)
    expected = [[0, 1, 1, 1, 0, 1], [1, 0, 1, 1, 1, 0]]
    np.testing.assert_array_equal(masks.mask, expected)


def test_set_masks_set_scores_of_either_sign(masks_of, quick):
    masks = masks_of(quick(retention_target=None))
    values = np.array([[1, 0, 1, 1, 1, 0]] * 2, "float32")
    masks.set_masks(values)
    masks(training=True)
    np.testing.assert_array_equal(masks.mask, values)
    np.testing.assert_array_equal(masks.mask_scores, 2 * values - 1)


def test_frozen_masks_stay(masks_of, quick):
    masks = masks_of(quick(retention_target=None))
    masks.frozen = True
    masks.mask_scores.assign(-np.ones((2, 6)))
    np.testing.assert_array_equal(masks(training=True), np.ones((2, 6)))


def test_penalty_is_the_weighted_retention(masks_of, quick):
    recipe = quick(retention_target=None, penalty=0.1)
    masks = masks_of(recipe)
    masks.mask_scores.assign([[-1, 1, 1, 1, -1, 1], [1, 1, 1, 1, 1, 1]])
    masks(training=True)
    (loss,) = masks.losses
    assert float(loss) == pytest.approx(0.1 * (5 / 8 + 1) / 2)


def test_weights_are_float32_under_mixed_precision(placement, macs, quick):
    masks = ScheduledMasks(2, placement, quick(), macs, dtype="mixed_bfloat16")
    assert {weight.dtype for weight in masks.weights} <= {"float32", "int32"}
    assert masks.mask_scores.dtype == masks.mask.dtype == "float32"
