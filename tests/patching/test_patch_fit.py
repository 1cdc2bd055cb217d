import dataclasses

import numpy as np
import pytest

from kmod.errors import CheckError
from kmod.patching.patch_figures import Scores
from kmod.patching.patch_figures import figures_of
from kmod.patching.patch_figures import layer_predictions
from kmod.patching.patch_figures import raw_predictions
from kmod.patching.patch_fit import check_gain
from kmod.patching.patch_fit import fit_on_scores


def scores_of(quality, seed=0, count=300):
    """A weak model that knows nothing of class 2, and a module that does."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    logits = random.normal(size=(count, 3))
    logits[np.arange(count), labels] += 3.0 * (labels != 2)
    log_odds = quality * np.where(labels == 2, 2, -2)
    log_odds = log_odds + random.normal(size=count)
    return Scores(logits, log_odds, 3 * log_odds, labels, 2)


@pytest.mark.parametrize("combine", ["calibrated", "minmax", "raw"])
def test_figures_are_of_unseen_images(combine):
    scores = scores_of(quality=1.0)
    fitted = fit_on_scores(scores, None, combine)
    assert fitted.before == figures_of(scores.predictions, scores)
    assert fitted.after.f1 > fitted.before.f1 + 0.2
    assert fitted.patch.combine == combine
    if combine == "raw":  # Nothing is fitted, so all images are unseen.
        assert fitted.after == figures_of(raw_predictions(scores), scores)


def test_figures_hold_on_other_images():
    fitted = fit_on_scores(scores_of(1.0, count=600), None)
    others = scores_of(1.0, seed=1, count=600)
    measured = figures_of(layer_predictions(fitted.patch.layer, others), others)
    assert fitted.after.f1 == pytest.approx(measured.f1, abs=0.05)
    assert fitted.helps


def test_lost_images_are_those_of_the_others():
    scores = scores_of(1.0)
    fitted = fit_on_scores(scores, None, "raw")
    others = np.sum(~scores.is_target)
    lost = fitted.before.other_accuracy - fitted.after.other_accuracy
    assert fitted.lost == round(lost * others)


@pytest.mark.parametrize(
    ("lost", "gain", "helps"),
    [(0, 0.1, True), (1, 0.1, True), (2, 0.1, False), (-3, 0.0, False)],
)
def test_patch_helps_if_f1_rises_and_others_lose_at_most_one_image(
    lost, gain, helps
):
    fitted = fit_on_scores(scores_of(1.0), None, "raw")
    after = dataclasses.replace(fitted.before, f1=fitted.before.f1 + gain)
    assert dataclasses.replace(fitted, after=after, lost=lost).helps is helps


def test_refusal_names_the_figures():
    fitted = fit_on_scores(scores_of(1.0), None, "raw")
    check_gain(dataclasses.replace(fitted, lost=0), "cat")
    with pytest.raises(CheckError, match=r"class 'cat' 0\.\d+ before and 0\."):
        check_gain(dataclasses.replace(fitted, lost=9), "cat")
