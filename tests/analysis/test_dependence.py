"""Dependence of classes, on stores of digits and by hand."""

import dataclasses
import json

import numpy as np
import pytest

import kmod
from kmod.analysis.dependence import SAFE
from kmod.analysis.dependence import kernel_responses
from kmod.data.image_data import LabelledImages
from kmod.errors import UsageError
from kmod.metrics.evaluate import evaluate
from kmod.metrics.exchange import expected_exchange_cost
from kmod.modules.cut import log_odds_model
from kmod.modules.decompose import decompose
from kmod.report.subject import open_subject


@pytest.fixture(scope="module")
def thinned(strong, digits, tmp_path_factory):
    """A store whose modules keep different kernels of the last convolution."""
    modular = kmod.ModularModel(strong, digits.class_names, mask_from="conv_3")
    masks = modular.kernel_masks
    last = modular.kernels.ids_of("conv_3")
    masks[:, last] = 0
    for row, kept in enumerate((slice(0, 12), slice(6, 18), slice(0, 8))):
        masks[row, last[kept]] = 1
    modular.kernel_masks = masks
    path = tmp_path_factory.mktemp("thinned") / "store"
    validation = digits.validation
    return decompose(
        modular,
        path,
        data=(validation.images, validation.labels),
        value_range=(0, 255),
    )


@pytest.fixture(scope="module")
def found(thinned, digits):
    return kmod.dependence(thinned, digits)


def test_overlap_is_of_the_kernels_kept(found):
    assert found.layers == ("conv_1", "conv_2", "conv_3")
    last = [[1, 6 / 18, 8 / 12], [6 / 18, 1, 2 / 18], [8 / 12, 2 / 18, 1]]
    np.testing.assert_allclose(found.overlap_by_layer[2], last)
    assert np.all(found.overlap_by_layer[:2] == 1)
    # Layers that all keep alike say nothing of how classes are divided.
    np.testing.assert_allclose(found.coupling, last)
    assert found.coupling_of("3") == pytest.approx((6 / 18 + 8 / 12) / 2)
    assert found.overlap[0, 1] == pytest.approx((12 + 6) / (12 + 18))
    assert found.own_kernels.tolist() == [0, 6, 0]


def test_cohesion_is_of_kernels_that_respond(found, thinned, digits):
    images = digits.validation
    rows = [np.flatnonzero(images.labels == n)[:20] for n in range(3)]
    few = images.take(np.sort(np.concatenate(rows)))
    responses = kernel_responses(thinned["8"].model, few.images)
    assert responses["conv_3"].shape == (len(few), 12)
    active = responses["conv_3"] > responses["conv_3"].mean(axis=0)
    own = active[few.labels == 1]
    pairs = [
        np.sum(own[i] & own[j]) / max(np.sum(own[i] | own[j]), 1)
        for i in range(len(own))
        for j in range(i)
    ]
    assert found.cohesion[1] == pytest.approx(np.mean(pairs))


def test_responses_are_behind_the_activation(thinned, images):
    model = thinned["3"].model
    found = kernel_responses(model, images)
    assert "conv_2" not in found  # A join ties it to conv_1.
    for name in ("conv_1", "conv_3"):
        kept = thinned["3"].info.kept_kernels[name]
        assert found[name].shape == (16, len(kept))
    assert found["conv_3"].min() >= 0


def test_figures_are_those_of_the_composed_store(found, thinned, digits):
    model = open_subject(thinned).model
    expected = evaluate(model, digits.validation, digits.class_names)
    np.testing.assert_array_equal(
        found.evaluation.confusion, expected.confusion
    )
    images, labels = digits.validation.images, digits.validation.labels
    log_odds = np.concatenate(
        [
            log_odds_model(thinned[name].model).predict(images, verbose=0)
            for name in thinned
        ],
        axis=1,
    )
    for index in range(3):
        others = labels != index
        rest = np.delete(log_odds, index, axis=1).argmax(axis=1)
        rest += rest >= index
        lost = np.mean(log_odds.argmax(axis=1)[others] == labels[others])
        lost -= np.mean(rest[others] == labels[others])
        assert found.left_out[index] == pytest.approx(lost)
        cost = expected_exchange_cost(log_odds, labels, index)
        assert found.exchange_cost[index] == pytest.approx(cost.accuracy)
        assert found.exchange_f1[index] == pytest.approx(cost.f1)


def costing(found, cost, confused):
    """The same, but for what exchanging the first class costs."""
    costs = np.array([cost, 0.0, 0.0])
    matrix = np.array([confused, [0] * 3, [0] * 3])
    return dataclasses.replace(
        found, exchange_cost=costs, exchange_confused=matrix, limit=0.01
    )


@pytest.mark.parametrize(
    ("cost", "confused", "partners"),
    [
        pytest.param(0.01, [0, 1, 1], (), id="within-the-limit"),
        pytest.param(0.011, [0, 0.02, 0.005], ("8",), id="one"),
        pytest.param(0.011, [0, 0.005, 0.02], ("9",), id="the-worse-one"),
        pytest.param(0.03, [0, -0.01, 0.02], ("9",), id="one-gains"),
        pytest.param(0.03, [0, -0.01, -0.02], ("8",), id="all-gain"),
    ],
)
def test_recommendation(found, cost, confused, partners):
    changed = costing(found, cost, confused)
    assert changed.partners("3") == partners
    words = f"move together with {partners[0]}" if partners else SAFE
    assert changed.recommendation("3") == words
    assert changed.recommendation("8") == SAFE


def test_partners_make_half_of_what_is_confused(found):
    matrix = np.zeros((5, 5))
    matrix[0] = [0, 0.2, 0.3, 0.2, 0.3]
    many = dataclasses.replace(
        found,
        class_names=tuple("abcde"),
        exchange_cost=np.ones(5),
        exchange_confused=matrix,
    )
    assert many.partners("a") == ("c", "e")


def test_plain_data(found):
    data = json.loads(json.dumps(found.as_dict()))
    assert list(data["classes"]) == list(found.class_names)
    own = data["classes"]["8"]
    assert own["exchange"]["f1"] == found.exchange_f1[1]
    assert own["move_with"] == list(found.partners("8"))
    assert data["overlap_by_layer"]["conv_3"][0][1] == 6 / 18


def test_few_images_have_no_cohesion(thinned, digits):
    rows = [np.flatnonzero(digits.test.labels == n)[0] for n in range(3)]
    few = digits.test.take(np.array(rows))
    found = kmod.dependence(thinned, (few.images, few.labels))
    assert np.isnan(found.cohesion).all()
    assert found.as_dict()["classes"]["3"]["cohesion"] is None


def test_every_class_must_be_shown(thinned, digits):
    own = digits.test.take(np.flatnonzero(digits.test.labels != 2))
    with pytest.raises(UsageError, match=r"no image of \['9'\]"):
        kmod.dependence(thinned, LabelledImages(own.images, own.labels))


def test_limit_must_not_be_below_0(thinned, digits):
    with pytest.raises(UsageError, match="Received: limit=-1"):
        kmod.dependence(thinned, digits, limit=-1)
