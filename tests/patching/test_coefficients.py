import dataclasses

import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.metrics.calibration import FOLDS
from kmod.metrics.calibration import folds
from kmod.patching import coefficients
from kmod.patching.coefficients import cross_predictions
from kmod.patching.coefficients import fit_layer
from kmod.patching.coefficients import fit_range
from kmod.patching.patch_figures import Scores
from kmod.patching.patch_figures import figures_of
from kmod.patching.patch_figures import layer_predictions


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


def test_good_module_raises_all_figures_on_other_images():
    layer = fit_layer(random_scores(quality=1.0))
    others = random_scores(quality=1.0, seed=1)
    before = figures_of(others.predictions, others)
    after = figures_of(layer_predictions(layer, others), others)
    assert after.f1 > before.f1 + 0.3
    assert after.recall > before.recall
    assert after.precision > before.precision
    assert after.other_accuracy > before.other_accuracy


def test_module_counts_most_for_its_own_class():
    layer = fit_layer(random_scores(quality=1.0))
    assert layer.module.index(max(layer.module)) == 3


@pytest.mark.parametrize("quality", [-1.0, 0.0])
def test_module_of_no_use_does_no_harm(quality):
    scores = random_scores(quality)
    layer = fit_layer(scores)
    assert layer.module[3] >= 0
    assert min(layer.weak) >= 0
    before = figures_of(scores.predictions, scores)
    after = figures_of(layer_predictions(layer, scores), scores)
    assert after.other_accuracy >= before.other_accuracy


def test_units_of_the_scores_do_not_matter():
    scores = random_scores(1.0)
    scaled = dataclasses.replace(scores, log_odds=50 * scores.log_odds)
    first, second = (fit_layer(given) for given in (scores, scaled))
    np.testing.assert_allclose(
        np.multiply(50, second.module), first.module, rtol=0.01, atol=0.02
    )


def test_answers_of_a_fold_do_not_depend_on_it():
    scores = random_scores(1.0, count=40)
    seen = []

    def fit(part):
        seen.append(part)
        return lambda others: np.full(len(others), len(seen))

    predictions = cross_predictions(fit, scores)
    assert [len(part) for part in seen] == [32] * FOLDS
    for number, fold in enumerate(folds(scores.labels), 1):
        assert (predictions[fold] == number).all()
        rest = seen[number - 1].log_odds
        assert not set(rest) & set(scores.log_odds[fold])


def test_folds_show_all_classes_alike():
    labels = np.repeat([0, 1, 2], [50, 10, 5])
    parts = folds(labels)
    assert np.sum(parts, axis=0).tolist() == [1] * 65
    for part in parts:
        assert np.bincount(labels[part]).tolist() == [10, 2, 1]


def test_range_is_of_the_target_alone():
    raw = np.array([-9.0, 9.0, -2.0, 3.0])
    labels = np.array([0, 1, 2, 2])
    scores = Scores(np.zeros((4, 3)), raw, raw, labels, 2)
    assert fit_range(scores) == (-2.0, 3.0)
    with pytest.raises(UsageError, match="2 of score 1.0. Give more"):
        fit_range(dataclasses.replace(scores, raw=np.ones(4)))


def test_supporting_modules_help_the_other_classes():
    def with_support(seed):
        scores = random_scores(quality=1.0, seed=seed)
        random = np.random.default_rng(seed + 10)
        log_odds = 3.0 * (scores.labels == 0) + random.normal(size=600)
        return scores, dataclasses.replace(scores, support=log_odds[:, None])

    alone, supported = with_support(0)
    other_alone, other_supported = with_support(1)
    layer = fit_layer(supported)
    assert len(layer.support) == 1
    assert layer.support[0][0] == max(layer.support[0])
    before = figures_of(
        layer_predictions(fit_layer(alone), other_alone), other_alone
    )
    after = figures_of(
        layer_predictions(layer, other_supported), other_supported
    )
    assert after.other_accuracy > before.other_accuracy + 0.05


def test_start_does_not_matter():
    scores = random_scores(1.0)
    layer = coefficients._regress(scores)
    near = coefficients._regress(scores.take(np.arange(500)))
    again = coefficients._regress(scores, start=near)
    np.testing.assert_allclose(again.module, layer.module, atol=0.02)
    np.testing.assert_allclose(again.weak, layer.weak, atol=0.02)
