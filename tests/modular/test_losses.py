import keras
import numpy as np
import pytest

from kmod.modular.losses import UNSEEN
from kmod.modular.losses import ModuleLoss
from kmod.modular.losses import SigmoidCrossEntropy
from kmod.modular.losses import distillation_loss
from kmod.modular.modular_model import ModularModel

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
    """Probabilities 3/4 and 1/4 against one half each."""
    divergence = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    logits = [[np.log(3), 0]]
    assert distil([[0, 0]], logits) == pytest.approx(divergence, rel=1e-5)
    softer = distil([[0, 0]], [[2 * np.log(3), 0]], temperature=2)
    assert softer == pytest.approx(4 * divergence, rel=1e-5)


def test_distillation_compares_among_the_rows_that_are_seen():
    logits = [[5.0, 0.0, -5.0]]
    classes = np.array([[2, 0]])
    shifted = [[-4.0, 6.0]]  # The logits of classes 2 and 0, plus 1.
    assert distil(shifted, logits, classes) == pytest.approx(0, abs=1e-5)
    for other in ([[6.0, -4.0]], [[-4.0, 4.0]]):
        assert distil(other, logits, classes) > 1e-4


def test_unmasked_modules_have_nothing_to_learn(small_cnn, data):
    modular = ModularModel(small_cnn)
    logits = modular.flat_source.predict(data[0], verbose=0)
    scores = modular.predict(data[0], verbose=0)
    assert distil(scores, logits) == pytest.approx(0, abs=1e-5)
    assert distil(1.5 * scores, logits) > 1e-4
