import numpy as np
import pytest

from kmod.patching import patch_threshold
from kmod.patching.patch_figures import Scores
from kmod.patching.patch_figures import figures_of
from kmod.patching.patch_threshold import best_shift


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
    monkeypatch.setattr(patch_threshold, "TOLERANCE", 0.0)


def test_third_hit_is_worth_an_error_among_many_others(no_caution):
    scores = scores_of([1] * 3 + [0] * 24, [0] * 25 + [1] * 2)
    values = two_columns([-1, -2, -4, -3, *[-5] * 23])
    shift = best_shift(values, scores)
    # F1 of 6 / 7 and 23 / 24 of the others, against 4 / 5 and all of them.
    assert shift == pytest.approx(4.5)
    assert shifted(values, shift).sum() == 4


def test_of_equally_good_shifts_the_smallest_is_taken(monkeypatch):
    monkeypatch.setattr(patch_threshold, "TOLERANCE", 0.5)
    scores = scores_of([1, 1, 0, 0], [0, 1, 0, 0])
    assert best_shift(two_columns([2, 1, -1, -2]), scores) == 0


def test_others_keep_their_accuracy(no_caution):
    scores = scores_of([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0])
    values = two_columns([-1, -2, -4, -3, -5, -6])
    assert best_shift(values, scores) == pytest.approx(2.5)


def test_recall_is_kept_where_precision_alone_would_gain(no_caution):
    labels = [1] * 4 + [0] * 12
    scores = scores_of(labels, [1] * 4 + [1] * 12)
    values = two_columns([4, 4, 4, -4, -3, *[-5] * 11])
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
