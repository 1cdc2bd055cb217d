import numpy as np
import pytest

from kmod.composition import patch_threshold
from kmod.composition.patch_figures import Scores
from kmod.composition.patch_figures import figures_of
from kmod.composition.patch_threshold import best_shift


def scores_of(labels, weak_answers):
    logits = 5.0 * np.eye(2)[weak_answers]
    nothing = np.zeros(len(labels))
    return Scores(logits, nothing, nothing, np.array(labels), 1)


def shifted(values, shift):
    return (values + [0, shift]).argmax(axis=1)


def two_columns(target_scores):
    target_scores = np.array(target_scores, float)
    return np.stack([np.zeros_like(target_scores), target_scores], axis=1)


@pytest.fixture
def no_caution(monkeypatch):
    monkeypatch.setattr(patch_threshold, "CAUTION", 0.0)


def test_f1_is_best_where_nothing_is_lost(no_caution):
    scores = scores_of([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1])
    values = two_columns([-1, -2, -4, -3, -5, -6])
    shift = best_shift(values, scores)
    assert shift == pytest.approx(4.5)  # Three hits, one error: F1 of 6 / 7.
    assert shifted(values, shift).tolist() == [1, 1, 1, 1, 0, 0]


def test_others_keep_their_accuracy(no_caution):
    scores = scores_of([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0])
    values = two_columns([-1, -2, -4, -3, -5, -6])
    assert best_shift(values, scores) == pytest.approx(2.5)


def test_recall_is_kept_where_precision_alone_would_gain(no_caution):
    labels = [1] * 4 + [0] * 12
    scores = scores_of(labels, [1] * 4 + [1] * 12)
    values = two_columns([4, 4, 4, -4, *[-3] * 9, -5, -5, -5])
    before = figures_of(scores.predictions, scores)
    after = figures_of(shifted(values, best_shift(values, scores)), scores)
    assert after.recall == before.recall == 1
    assert after.precision > before.precision


def test_caution_takes_fewer_images_for_the_target():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    scores = scores_of(labels, np.where(random.random(400) < 0.1, 1, 0))
    values = two_columns(labels + random.normal(size=400) - 0.5)
    kept = figures_of(shifted(values, best_shift(values, scores)), scores)
    before = figures_of(scores.predictions, scores)
    assert kept.other_accuracy > before.other_accuracy
    assert kept.recall > before.recall


@pytest.mark.parametrize(
    ("labels", "expected"), [([1, 1], [1, 1]), ([0, 0], [0, 0])]
)
def test_all_or_none(no_caution, labels, expected):
    scores = scores_of(labels, labels)
    values = two_columns([-1, -2])
    shift = best_shift(values, scores)
    assert shifted(values, shift).tolist() == expected
