import keras
import numpy as np
import pytest

from kmod.composition import plain_ways
from kmod.composition.plain_ways import PlannedWay
from kmod.composition.plain_ways import as_it_is
from kmod.composition.plain_ways import cross_fitted_answers
from kmod.composition.plain_ways import fit_ways
from kmod.metrics.calibration import fit_scores

NAMES = ("a", "b", "c")
LABELS = np.repeat([0, 1, 2], 20)


@pytest.fixture
def columns():
    """Images of two columns that tell the classes, and six of noise."""
    random = np.random.default_rng(0)
    values = random.normal(size=(len(LABELS), 8)).astype("float32")
    values[LABELS == 1, 0] += 6
    values[LABELS == 2, 1] += 6
    return values


def tried(columns, labels=LABELS):
    image = keras.Input((8,))
    x = keras.layers.Activation("linear", name="same")(image)
    telling, noise = x[:, :2], x[:, 2:]
    planned = {
        "better": [PlannedWay(noise), PlannedWay(telling), PlannedWay(noise)],
        "raw": [PlannedWay(x[:, :3], as_it_is, takes_labels=False)],
    }
    ways = fit_ways(image, planned, columns, labels, NAMES)
    return {way.name: way for way in ways}


def test_of_alternatives_the_best_counts(columns):
    ways = tried(columns)
    assert list(ways) == ["better", "raw"]
    assert ways["better"].evaluation.accuracy > 0.9
    assert ways["better"].num_labelled == len(LABELS)
    answers = ways["better"].model.predict(columns, verbose=0).argmax(axis=1)
    assert np.mean(answers == LABELS) > 0.9
    assert ways["raw"].num_labelled == 0
    answers = ways["raw"].model.predict(columns, verbose=0).argmax(axis=1)
    np.testing.assert_array_equal(answers, columns[:, :3].argmax(axis=1))
    assert ways["raw"].evaluation.accuracy == np.mean(answers == LABELS)


def test_no_image_is_answered_by_a_fit_on_it():
    random = np.random.default_rng(0)
    noise = random.normal(size=(60, 40)).astype("float32")

    def fit(scores, labels):
        return fit_scores(scores, labels, penalty=0.01)

    weights, bias = fit(noise, LABELS)
    seen = np.mean((noise @ weights + bias).argmax(axis=1) == LABELS)
    unseen = np.mean(cross_fitted_answers(noise, LABELS, fit) == LABELS)
    assert seen > 0.9 and unseen < 0.6


@pytest.mark.parametrize("reason", ["large", "shown-once"])
def test_regressions_that_can_not_be_compared_are_left_out(
    columns, monkeypatch, reason
):
    rows = slice(None)
    if reason == "large":
        monkeypatch.setattr(plain_ways, "MOST_WEIGHTS", 5)
    else:
        rows = np.flatnonzero((LABELS < 2) | (np.arange(60) == 59))
    assert list(tried(columns[rows], LABELS[rows])) == ["raw"]


def test_layout_for_speed_answers_the_same(columns):
    way = tried(columns)["better"]
    np.testing.assert_allclose(
        way.laid_out.predict(columns, verbose=0),
        way.model.predict(columns, verbose=0),
        atol=1e-5,
    )
