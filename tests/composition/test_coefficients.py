import dataclasses

import numpy as np
import pytest

from kmod.composition.coefficients import SAFETY_MARGIN
from kmod.composition.coefficients import Scores
from kmod.composition.coefficients import figures_after
from kmod.composition.coefficients import figures_before
from kmod.composition.coefficients import figures_replaced
from kmod.composition.coefficients import fit_coefficients
from kmod.composition.coefficients import fit_range
from kmod.errors import UsageError
from kmod.spec.model import Coefficients

# Three classes, the target is 2. The weak model takes image 3 for class 0.
LOGITS = np.array(
    [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 3.0], [3.0, 1.0, 1.0]]
)
LABELS = np.array([0, 1, 2, 2])


def random_scores(quality, seed=0, count=600):
    """Scores with a module whose log-odds are right to some degree."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    logits = random.normal(size=(count, 4))
    logits[np.arange(count), labels] += 2
    logits[:, 3] = random.normal(size=count)  # Knows nothing of class 3.
    log_odds = quality * np.where(labels == 3, 2, -2)
    log_odds = log_odds + random.normal(size=count)
    return Scores(logits, log_odds, log_odds, labels, 3)


def test_log_odds_are_those_of_the_softmax():
    scores = Scores(LOGITS, np.zeros(4), np.zeros(4), LABELS, 2)
    powers = np.exp(LOGITS)
    p = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        scores.weak_log_odds, np.log(p[:, 2] / (1 - p[:, 2]))
    )
    others = p[:, :2].max(axis=1) / (1 - p[:, 2])
    np.testing.assert_allclose(scores.other_log_probability, np.log(others))


def test_figures_by_hand():
    log_odds = np.array([-9.0, 9.0, -9.0, 9.0])
    scores = Scores(LOGITS, log_odds, log_odds, LABELS, 2)
    before = figures_before(scores)
    assert (before.f1, before.other_accuracy) == (2 / 3, 1.0)
    after = figures_after(Coefficients(1.0, 0.0, 0.0), scores)
    assert (after.f1, after.other_accuracy) == (1 / 2, 1 / 2)


def test_good_module_raises_f1_and_spares_the_others():
    scores = random_scores(quality=1.0)
    coefficients = fit_coefficients(scores)
    before = figures_before(scores)
    after = figures_after(coefficients, scores)
    assert after.f1 > before.f1 + 0.3
    assert after.other_accuracy >= before.other_accuracy
    assert coefficients.module > coefficients.weak >= 0


def test_bias_is_lowered_where_the_others_would_lose():
    scores = random_scores(quality=0.5)
    logits = scores.logits.copy()
    logits[:, 3] = -20  # So far, no image is taken for class 3 in error.
    scores = dataclasses.replace(scores, logits=logits)
    coefficients = fit_coefficients(scores)
    before = figures_before(scores)
    after = figures_after(coefficients, scores)
    assert after.other_accuracy == before.other_accuracy
    near, far = (
        dataclasses.replace(coefficients, bias=coefficients.bias + margin)
        for margin in (SAFETY_MARGIN, SAFETY_MARGIN + 3)
    )
    kept = figures_after(near, scores).other_accuracy
    lost = figures_after(far, scores).other_accuracy
    assert lost < before.other_accuracy == kept


def test_replaced_column_by_hand():
    scores = Scores(LOGITS, np.zeros(4), np.zeros(4), LABELS, 2)
    # The weak model gives 0.91 to class 0, 0.91 to class 1, 0.84 to its own.
    answers = np.array([0.9, 0.92, 0.8, 0.9])
    figures = figures_replaced(answers, scores)
    assert (figures.f1, figures.other_accuracy) == (4 / 5, 1 / 2)


def test_range_is_of_the_target_alone():
    raw = np.array([-9.0, 9.0, -2.0, 3.0])
    scores = Scores(LOGITS, raw, raw, LABELS, 2)
    assert fit_range(scores) == (-2.0, 3.0)
    with pytest.raises(UsageError, match="2 of score 1.0. Give more"):
        fit_range(dataclasses.replace(scores, raw=np.ones(4)))


@pytest.mark.parametrize("quality", [-1.0, 0.0])
def test_weights_are_never_negative(quality):
    coefficients = fit_coefficients(random_scores(quality))
    assert coefficients.module >= 0
    assert coefficients.weak >= 0
    if quality < 0:
        assert coefficients.module == 0
