import keras
import numpy as np
import pytest

from kmod.masks.losses import UNSEEN
from kmod.masks.losses import ModuleLoss
from kmod.masks.losses import SigmoidCrossEntropy
from kmod.masks.losses import distillation_loss

LN2 = np.log(2)


def value(loss, label, scores):
    return float(loss(np.array([label]), np.array([scores], "float32")))


@pytest.mark.parametrize(
    ("loss", "label", "scores", "expected"),
    [
        pytest.param(
            ModuleLoss(binary_weight=0), 0, [0, 0], LN2, id="shared-term"
        ),
        pytest.param(
            ModuleLoss(binary_weight=0.5), 1, [0, 0], 2 * LN2, id="both-terms"
        ),
        pytest.param(
            ModuleLoss(binary_weight=0),
            0,
            [np.log(3), 0],
            np.log(4 / 3),
            id="three-to-one",
        ),
        pytest.param(
            ModuleLoss(binary_weight=1, negative_weight=3),
            0,
            [0, 0],
            np.log(4) + 4 * LN2,
            id="stands-for-three",
        ),
    ],
)
def test_module_loss_by_hand(loss, label, scores, expected):
    assert value(loss, label, scores) == pytest.approx(expected, rel=1e-5)


def test_module_that_saw_nothing_takes_no_part():
    loss = ModuleLoss(negative_weight=4)
    seen = value(loss, 1, [0.5, 1.5])
    assert value(loss, 2, [0.5, UNSEEN, 1.5]) == pytest.approx(seen, rel=1e-5)


def test_right_scores_cost_nothing():
    assert value(ModuleLoss(), 0, [40, -40, -40]) == pytest.approx(0, abs=1e-6)
    assert value(ModuleLoss(), 1, [40, -40, -40]) > 80


def test_labels_may_have_an_axis_more():
    scores = np.array([[1, 2], [3, 4]], "float32")
    for loss in (ModuleLoss(), SigmoidCrossEntropy()):
        flat = float(loss(np.array([0, 1]), scores))
        assert float(loss(np.array([[0], [1]]), scores)) == pytest.approx(flat)


def test_published_loss_by_hand():
    loss = SigmoidCrossEntropy()
    assert value(loss, 0, [0, 0, 0, 0]) == pytest.approx(np.log(4), rel=1e-5)
    expected = np.log(np.exp(0.75) + np.exp(0.5)) - 0.75
    assert value(loss, 0, [np.log(3), 0]) == pytest.approx(expected, rel=1e-5)


def test_published_loss_has_a_floor():
    perfect = [100.0] + 9 * [-100.0]
    floor = value(SigmoidCrossEntropy(), 0, perfect)
    assert floor == pytest.approx(np.log(1 + 9 / np.e), rel=1e-5)
    assert floor == pytest.approx(1.461, abs=1e-3)


@pytest.mark.parametrize(
    "loss",
    [ModuleLoss(0.7, negative_weight=2.0, name="own"), SigmoidCrossEntropy()],
)
def test_config_round_trip(loss):
    config = keras.saving.serialize_keras_object(loss)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(loss)
    assert copy.get_config() == loss.get_config()


def test_config_holds_every_argument():
    config = ModuleLoss(0.7, negative_weight=2.0).get_config()
    assert config["binary_weight"] == 0.7
    assert config["negative_weight"] == 2.0


def distil(scores, logits, classes=None, temperature=1.0):
    scores, logits = np.array(scores, "float32"), np.array(logits, "float32")
    return float(distillation_loss(scores, logits, classes, temperature))


def test_distillation_by_hand():
    assert distil([[0, 0]], [[0, 0]]) == pytest.approx(2 * LN2)
    assert distil([[0, 0]], [[0, 0]], temperature=2) == pytest.approx(8 * LN2)
    shifted = np.log1p(np.e) - 0.5 + LN2
    assert distil([[1, 0]], [[0, 0]]) == pytest.approx(shifted, rel=1e-5)


def test_distillation_of_drawn_rows_counts_others_for_the_rest():
    drawn = distil([[0, 0]], [[0, 0, 0]], np.array([[1, 2]]))
    assert drawn == pytest.approx(3 * LN2, rel=1e-5)


def test_distillation_takes_the_logits_of_the_rows():
    logits = [[5.0, 0.0, -5.0]]
    answers = keras.ops.softmax(np.array(logits))
    scores = np.log(answers / (1 - np.array(answers)))
    classes = np.array([[2, 0]])
    best = distil(scores[:, [2, 0]], logits, classes)
    for other in (scores[:, [0, 2]], scores[:, [2, 0]] + 0.5):
        assert distil(other, logits, classes) > best
