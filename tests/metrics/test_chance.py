import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.metrics.chance import check_above_chance


def guesses(labels, num_classes, seed):
    return np.random.default_rng(seed).integers(0, num_classes, len(labels))


LABELS = np.arange(400) % 4


def test_accuracy_of_a_classifier_that_knows_something():
    predictions = np.where(np.arange(400) < 240, LABELS, (LABELS + 1) % 4)
    assert check_above_chance(predictions, LABELS) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "predictions",
    [
        pytest.param(guesses(LABELS, 4, 0), id="guesses"),
        pytest.param(np.zeros_like(LABELS), id="always-the-same"),
        pytest.param((LABELS + 1) % 4, id="labels-in-another-order"),
        pytest.param(LABELS + 4, id="classes-that-are-not-there"),
    ],
)
def test_guesses_are_refused(predictions):
    with pytest.raises(
        ArtifactError, match=r"400 images of 4 classes, where guesses get 25.0%"
    ):
        check_above_chance(predictions, LABELS)


def test_limit_is_two_deviations_above_chance():
    """Of four classes of 100 images: 1/4 + 2 * sqrt(1/4 * 3/4 / 400)."""
    limit = 0.25 + 2 * np.sqrt(0.25 * 0.75 / 400)
    count = int(limit * 400)
    order = np.argsort(LABELS, kind="stable").reshape(4, 100).T.ravel()

    def right(number):
        predictions = (LABELS + 1) % 4
        predictions[order[:number]] = LABELS[order[:number]]
        return predictions

    with pytest.raises(ArtifactError, match="up to 29.3% by luck"):
        check_above_chance(right(count), LABELS)
    assert check_above_chance(right(count + 1), LABELS) > limit


def test_the_most_frequent_class_does_not_help():
    labels = np.array([0] * 380 + [1] * 20)
    with pytest.raises(ArtifactError, match="95.0% and a mean recall of 50.0%"):
        check_above_chance(np.zeros_like(labels), labels)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(np.zeros(50, int), id="one-class"),
        pytest.param(np.array([0, 1]), id="too-few-to-tell"),
    ],
)
def test_what_tells_nothing_is_not_judged_by(labels):
    assert check_above_chance(labels, labels) == 1
    assert check_above_chance(labels + 1, labels) == 0


def test_an_order_that_fits_is_named():
    predictions = np.where(np.arange(400) < 360, (LABELS + 1) % 4, 0)
    with pytest.raises(
        ArtifactError,
        match="accuracy of 92.5% if read class by class: 0 as 1, 1 as 2, 2 as "
        "3, 3 as 0",
    ):
        check_above_chance(predictions, LABELS)


def test_only_classes_that_move_are_named():
    with pytest.raises(
        ArtifactError, match="class by class: 1 as 2, 2 as 3, 3 as 1"
    ):
        check_above_chance(np.array([0, 2, 3, 1])[LABELS], LABELS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 10])
def test_guesses_fit_in_no_order(num_classes, seed):
    labels = np.arange(6 * num_classes) % num_classes
    predictions = guesses(labels, num_classes, seed)
    with pytest.raises(ArtifactError, match="the most frequent answer is"):
        check_above_chance(0 * predictions, labels)
    try:
        check_above_chance(predictions, labels)
    except ArtifactError as error:
        assert "class by class" not in str(error)
