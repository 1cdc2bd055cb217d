import dataclasses

import numpy as np
import pytest

from kmod.composition.patched_model import Patch
from kmod.errors import UsageError
from kmod.metrics.calibration import FOLDS
from kmod.metrics.calibration import folds
from kmod.metrics.comparison import Comparison
from kmod.patching import patch_fit
from kmod.patching.acceptance import Acceptance
from kmod.patching.patch_fit import SHARES
from kmod.patching.patch_fit import ValidationScores
from kmod.patching.patch_fit import choose_threshold
from kmod.patching.patch_fit import cross_predictions
from kmod.patching.patch_fit import fit_layer
from kmod.patching.patch_fit import fit_on_scores
from kmod.patching.patch_fit import fit_range
from kmod.patching.patch_fit import fit_rule
from kmod.patching.patch_fit import layer_scores
from kmod.patching.patch_fit import likeliest_weak_share
from kmod.patching.patch_fit import patch_predictions
from kmod.spec.model import WEAK_SHARE
from kmod.spec.model import PatchLayer

# Three classes, the target is 2. The weak model takes image 3 for class 0.
LOGITS = np.array(
    [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 3.0], [3.0, 1.0, 1.0]]
)
LABELS = np.array([0, 1, 2, 2])


def scores_with(log_odds, raw=None):
    log_odds = np.array(log_odds)
    raw = log_odds if raw is None else np.array(raw)
    return ValidationScores(LOGITS, log_odds[:, None], raw, LABELS, 2)


def test_figures_by_hand():
    scores = scores_with([0.0] * 4)
    figures = scores.figures_of(scores.predictions)
    assert scores.predictions.tolist() == [0, 1, 2, 0]
    assert (figures.precision, figures.recall) == (1, 1 / 2)
    assert (figures.f1, figures.other_classes_accuracy) == (
        pytest.approx(2 / 3),
        1,
    )


def test_figures_of_a_target_that_is_never_answered():
    scores = scores_with([0.0] * 4)
    figures = scores.figures_of(np.zeros(4, "int64"))
    assert (figures.precision, figures.recall, figures.f1) == (0, 0, 0)
    assert figures.other_classes_accuracy == 1 / 2


def test_log_probabilities_are_those_of_the_softmax():
    powers = np.exp(LOGITS)
    np.testing.assert_allclose(
        np.exp(scores_with([0.0] * 4).log_probabilities),
        powers / powers.sum(axis=1, keepdims=True),
    )


def test_layer_by_hand():
    scores = scores_with([-1.0, 0.0, 2.0, 4.0])
    layer = PatchLayer((0.0, 0.5, 1.0), (1.0, 2.0, 0.0), (0.0, 0.0, -1.0))
    values = layer_scores(layer, scores)
    own = scores.log_probabilities
    np.testing.assert_allclose(values[:, 0], own[:, 0])
    np.testing.assert_allclose(values[:, 1], 2 * own[:, 1] + [-0.5, 0, 1, 2])
    np.testing.assert_allclose(values[:, 2], [-2, -1, 1, 3])
    predictions = patch_predictions(Patch(2, None, layer=layer), scores)
    assert predictions.tolist() == values.argmax(axis=1).tolist()


def test_published_rules_replace_the_probability():
    # The weak model gives 0.91 to class 0, 0.91 to class 1, 0.84 to its own.
    answers = np.array([0.9, 0.92, 0.8, 0.9])
    log_odds = np.log(answers / (1 - answers))
    scores = scores_with(log_odds, raw=10 * answers - 5)
    raw = Patch(2, None, "raw")
    minmax = Patch(2, None, "minmax", range=(-5.0, 5.0))
    assert patch_predictions(raw, scores).tolist() == [0, 2, 2, 2]
    assert patch_predictions(minmax, scores).tolist() == [0, 2, 2, 2]


def test_part_of_the_images():
    part = scores_with([0.0, 1.0, 2.0, 3.0]).take(np.array([3, 1]))
    assert len(part) == 2
    assert part.labels.tolist() == [2, 1]
    assert part.log_odds.tolist() == [[3], [1]]
    np.testing.assert_array_equal(part.logits, LOGITS[[3, 1]])


def random_scores(quality, seed=0, count=600):
    """Scores with a module whose log-odds are right to some degree."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    logits = random.normal(size=(count, 4))
    logits[np.arange(count), labels] += 2
    logits[:, 3] = random.normal(size=count)  # Knows nothing of class 3.
    log_odds = quality * np.where(labels == 3, 2, -2)
    log_odds = log_odds + random.normal(size=count)
    return ValidationScores(logits, log_odds[:, None], log_odds, labels, 3)


def shared_scores(seed=0, count=600):
    """Scores of a weak model that mixes up 2 and 3, and modules of both."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    logits = random.normal(size=(count, 4))
    logits[np.arange(count), np.where(labels == 3, 2, labels)] += 4
    logits[:, 3] -= 4
    shown = np.stack([labels == 3, labels == 2], axis=1)
    log_odds = np.where(shown, 2, -2) + random.normal(size=(count, 2))
    return ValidationScores(logits, log_odds, log_odds[:, 0], labels, 3, (2,))


def test_division_needs_no_label():
    scores = shared_scores()
    before = scores.figures_of(scores.predictions)
    patch = Patch(3, None, "divided", others=(2,))
    answers = patch_predictions(patch, scores)
    after = scores.figures_of(answers)
    assert before.recall == 0 and after.f1 > 0.8
    known = scores.labels < 2
    assert np.mean(answers[known] == scores.labels[known]) > 0.9
    swapped = dataclasses.replace(scores, log_odds=scores.log_odds[:, ::-1])
    assert scores.figures_of(patch_predictions(patch, swapped)).f1 < 0.2


@pytest.mark.parametrize("is_weak_better", [False, True])
def test_better_ranking_counts_more(is_weak_better):
    scores, others = (ranked_scores(is_weak_better, seed) for seed in (1, 2))
    patch = Patch(3, None, "divided", others=(2, 1))
    share = fit_rule(patch, scores).weak_share
    assert share == likeliest_weak_share(scores)
    assert share > 0.6 if is_weak_better else share < 0.2
    right = [
        np.mean(patch_predictions(each, others) == others.labels)
        for each in (patch, dataclasses.replace(patch, weak_share=share))
    ]
    assert right[1] > right[0]


def ranked_scores(is_weak_better, seed):
    """Those of `shared_scores`; one side takes 1 for 2 as often as not."""
    scores, random = shared_scores(seed), np.random.default_rng(seed)
    shown = np.stack([scores.labels == 2, scores.labels == 1], axis=1)
    log_odds = np.where(shown, 2, -2) + random.normal(size=shown.shape)
    logits = scores.logits.copy()
    swapped = shown.any(axis=1) & (random.random(len(scores)) < 0.5)
    if is_weak_better:
        log_odds[swapped] = log_odds[swapped, ::-1]
    else:
        logits[swapped, 1:3] = logits[swapped, 2:0:-1]
    log_odds = np.concatenate([scores.log_odds[:, :1], log_odds], axis=1)
    return dataclasses.replace(
        scores, logits=logits, log_odds=log_odds, others=(2, 1)
    )


def test_ranking_counts_as_usual_where_images_do_not_tell():
    scores = ranked_scores(True, seed=1)
    first = np.unique(scores.labels, return_index=True)[1]
    assert likeliest_weak_share(scores.take(first)) == WEAK_SHARE
    assert likeliest_weak_share(shared_scores()) == WEAK_SHARE


def test_few_labels_do_not_harm_the_division():
    few, others = shared_scores(seed=1, count=20), shared_scores(seed=2)
    patch = Patch(3, None, "divided", others=(2,))
    fitted = fit_rule(patch, few)
    f1 = [
        others.figures_of(patch_predictions(each, others)).f1
        for each in (patch, fitted)
    ]
    assert f1[1] > f1[0] - 0.02


def test_what_the_division_loses_is_mixed_in():
    """The weak model is surest of 0 and 1 by how it mistakes them."""
    scores, others = swapped_scores(seed=1), swapped_scores(seed=2)
    patch = Patch(3, None, "divided", others=(2,))
    fitted = fit_rule(patch, scores)
    (share,) = {1 - weak for weak in fitted.layer.weak}
    assert share in SHARES and share > 0
    right = [
        np.mean(patch_predictions(each, others) == others.labels)
        for each in (patch, fitted)
    ]
    assert right[1] > right[0] + 0.15


def swapped_scores(seed):
    """Those of `shared_scores`, but most of 0 is taken for 1, and back."""
    scores = shared_scores(seed)
    random, logits = np.random.default_rng(seed), scores.logits.copy()
    swapped = (scores.labels < 2) & (random.random(len(scores)) < 0.8)
    logits[swapped, :2] = logits[swapped, 1::-1]
    return dataclasses.replace(scores, logits=logits)


def test_layer_of_the_division_takes_images_of_all_classes():
    scores = shared_scores()
    scores = scores.take(scores.labels != 0)
    patch = Patch(3, None, "divided", others=(2,))
    assert fit_rule(patch, scores).layer is None


def answers_of(layer, scores):
    patch = Patch(scores.target, None, layer=layer)
    return patch_predictions(patch, scores)


def test_good_module_raises_all_figures_on_other_images():
    layer = fit_layer(random_scores(quality=1.0))
    others = random_scores(quality=1.0, seed=1)
    before = others.figures_of(others.predictions)
    after = others.figures_of(answers_of(layer, others))
    assert after.f1 > before.f1 + 0.3
    assert after.recall > before.recall
    assert after.precision > before.precision
    assert after.other_classes_accuracy > before.other_classes_accuracy


def test_module_counts_most_for_its_own_class():
    layer = fit_layer(random_scores(quality=1.0))
    assert layer.module.index(max(layer.module)) == 3


@pytest.mark.parametrize("quality", [-1.0, 0.0])
def test_module_of_no_use_does_no_harm(quality):
    scores = random_scores(quality)
    layer = fit_layer(scores)
    assert layer.module[3] >= 0
    assert min(layer.weak) >= 0
    before = scores.figures_of(scores.predictions)
    after = scores.figures_of(answers_of(layer, scores))
    assert after.other_classes_accuracy >= before.other_classes_accuracy


def test_units_of_the_scores_do_not_matter():
    scores = random_scores(1.0)
    scaled = dataclasses.replace(scores, log_odds=50 * scores.log_odds)
    first, second = (fit_layer(given) for given in (scores, scaled))
    np.testing.assert_allclose(
        np.multiply(50, second.module), first.module, rtol=0.01, atol=0.02
    )


def test_answers_of_a_fold_do_not_depend_on_it(monkeypatch):
    scores = random_scores(1.0, count=40)
    seen = []

    def fit(patch, part):
        seen.append(part)
        return dataclasses.replace(patch, target=len(seen))

    def predict(patch, others):
        return np.full(len(others), patch.target)

    monkeypatch.setattr(patch_fit, "fit_rule", fit)
    monkeypatch.setattr(patch_fit, "patch_predictions", predict)
    predictions = cross_predictions(Patch(0, None), scores)
    assert [len(part) for part in seen] == [32] * FOLDS
    for number, fold in enumerate(folds(scores.labels), 1):
        assert (predictions[fold] == number).all()
        rest = seen[number - 1].raw
        assert not set(rest) & set(scores.raw[fold])


def test_folds_show_all_classes_alike():
    labels = np.repeat([0, 1, 2], [50, 10, 5])
    parts = folds(labels)
    assert np.sum(parts, axis=0).tolist() == [1] * 65
    for part in parts:
        assert np.bincount(labels[part]).tolist() == [10, 2, 1]


def test_range_is_of_the_target_alone():
    raw = np.array([-9.0, 9.0, -2.0, 3.0])
    labels = np.array([0, 1, 2, 2])
    scores = ValidationScores(np.zeros((4, 3)), raw[:, None], raw, labels, 2)
    assert fit_range(scores) == (-2.0, 3.0)
    with pytest.raises(UsageError, match="2 of score 1.0. Give more"):
        fit_range(dataclasses.replace(scores, raw=np.ones(4)))


def test_auxiliary_modules_help_the_other_classes():
    def with_auxiliary(seed):
        scores = random_scores(quality=1.0, seed=seed)
        random = np.random.default_rng(seed + 10)
        more = 3.0 * (scores.labels == 0) + random.normal(size=600)
        log_odds = np.column_stack([scores.log_odds, more])
        return scores, dataclasses.replace(scores, log_odds=log_odds)

    one, two = with_auxiliary(0)
    other_one, other_two = with_auxiliary(1)
    layer = fit_layer(two)
    assert len(layer.auxiliary) == 1
    assert layer.auxiliary[0][0] == max(layer.auxiliary[0])
    before = other_one.figures_of(answers_of(fit_layer(one), other_one))
    after = other_two.figures_of(answers_of(layer, other_two))
    assert after.other_classes_accuracy > before.other_classes_accuracy + 0.05


def test_start_does_not_matter():
    scores = random_scores(1.0)
    layer = patch_fit._regress(scores)
    near = patch_fit._regress(scores.take(np.arange(500)))
    again = patch_fit._regress(scores, start=near)
    np.testing.assert_allclose(again.module, layer.module, atol=0.02)
    np.testing.assert_allclose(again.weak, layer.weak, atol=0.02)


def two_classes(labels, weak_answers):
    logits = 5.0 * np.eye(2)[weak_answers]
    nothing = np.zeros(len(labels))
    labels = np.array(labels)
    return ValidationScores(logits, nothing[:, None], nothing, labels, 1)


def shifted(values, shift):
    return (values + [0, shift]).argmax(axis=1)


def two_columns(target_scores):
    target_scores = np.array(target_scores, float)
    return np.stack([np.zeros_like(target_scores), target_scores], axis=1)


@pytest.fixture
def no_caution(monkeypatch):
    monkeypatch.setattr(patch_fit, "CAUTION", 0.0)
    monkeypatch.setattr(patch_fit, "TOLERANCE", 0.0)


def test_third_hit_is_worth_an_error_among_many_others(no_caution):
    scores = two_classes([1] * 3 + [0] * 24, [0] * 25 + [1] * 2)
    values = two_columns([-1, -2, -4, -3, *[-5] * 23])
    shift = choose_threshold(values, scores)
    # F1 of 6 / 7 and 23 / 24 of the others, against 4 / 5 and all of them.
    assert shift == pytest.approx(4.5)
    assert shifted(values, shift).sum() == 4


def test_of_equally_good_shifts_the_smallest_is_taken(monkeypatch):
    monkeypatch.setattr(patch_fit, "TOLERANCE", 0.5)
    scores = two_classes([1, 1, 0, 0], [0, 1, 0, 0])
    assert choose_threshold(two_columns([2, 1, -1, -2]), scores) == 0


def test_others_keep_their_accuracy(no_caution):
    scores = two_classes([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0])
    values = two_columns([-1, -2, -4, -3, -5, -6])
    assert choose_threshold(values, scores) == pytest.approx(2.5)


def test_recall_is_kept_where_precision_alone_would_gain(no_caution):
    labels = [1] * 4 + [0] * 12
    scores = two_classes(labels, [1] * 4 + [1] * 12)
    values = two_columns([4, 4, 4, -4, -3, *[-5] * 11])
    before = scores.figures_of(scores.predictions)
    after = scores.figures_of(shifted(values, choose_threshold(values, scores)))
    assert after.recall == before.recall == 1
    assert after.precision > before.precision


def test_caution_takes_fewer_images_for_the_target():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    scores = two_classes(labels, np.where(random.random(400) < 0.1, 1, 0))
    values = two_columns(labels + random.normal(size=400) - 0.5)
    kept = scores.figures_of(shifted(values, choose_threshold(values, scores)))
    before = scores.figures_of(scores.predictions)
    assert kept.other_classes_accuracy > before.other_classes_accuracy
    assert kept.recall > before.recall


@pytest.mark.parametrize(
    ("labels", "expected"), [([1, 1], [1, 1]), ([0, 0], [0, 0])]
)
def test_all_or_none(no_caution, labels, expected):
    scores = two_classes(labels, labels)
    values = two_columns([-1, -2])
    shift = choose_threshold(values, scores)
    assert shifted(values, shift).tolist() == expected


def scores_of(quality, seed=0, count=300):
    """A weak model that knows nothing of class 2, and a module that does."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    logits = random.normal(size=(count, 3))
    logits[np.arange(count), labels] += 3.0 * (labels != 2)
    log_odds = quality * np.where(labels == 2, 2, -2)
    log_odds = log_odds + random.normal(size=count)
    return ValidationScores(logits, log_odds[:, None], 3 * log_odds, labels, 2)


@pytest.mark.parametrize("combine", ["calibrated", "minmax", "raw"])
def test_figures_are_of_unseen_images(combine):
    scores = scores_of(quality=1.0)
    fitted = fit_on_scores(scores, None, combine)
    assert fitted.before == scores.figures_of(scores.predictions)
    assert fitted.after.f1 > fitted.before.f1 + 0.2
    assert fitted.patch.combine == combine
    if combine == "raw":  # Nothing is fitted, so all images are unseen.
        assert fitted.after == scores.figures_of(
            patch_predictions(fitted.patch, scores)
        )


def test_figures_hold_on_other_images():
    fitted = fit_on_scores(scores_of(1.0, count=600), None)
    others = scores_of(1.0, seed=1, count=600)
    measured = others.figures_of(patch_predictions(fitted.patch, others))
    assert fitted.after.f1 == pytest.approx(measured.f1, abs=0.05)
    assert fitted.helps


def test_comparisons_are_of_the_answers():
    from sklearn import metrics

    scores = scores_of(1.0)
    fitted = fit_on_scores(scores, None, "raw")
    answers = patch_predictions(fitted.patch, scores)
    found = fitted.comparisons
    for when, expected in (("before", scores.predictions), ("after", answers)):
        assert getattr(found["accuracy"], when) == metrics.accuracy_score(
            scores.labels, expected
        )
        assert getattr(found["macro_f1"], when) == pytest.approx(
            metrics.f1_score(scores.labels, expected, average="macro")
        )
        assert getattr(fitted, when).recall == getattr(found["recall"], when)


@pytest.mark.parametrize(
    ("acceptance", "gains", "helps"),
    [
        (Acceptance(), (0.1, -0.05, 0.0, -0.1), True),
        (Acceptance(), (0.1, -0.06, 0.1, 0.1), False),
        (Acceptance(), (0.1, 0.0, -0.01, 0.1), False),
        (Acceptance(), (0.0, 0.1, 0.1, 0.1), False),
        (Acceptance(max_loss=0.1), (0.1, -0.06, 0.1, 0.1), True),
        (Acceptance("macro_f1"), (0.1, 0.0, -0.01, 0.1), True),
        (Acceptance("macro_f1"), (0.1, 0.0, 0.01, -0.1), False),
    ],
)
def test_what_a_patch_must_gain_and_may_cost(acceptance, gains, helps):
    names = "f1", "other_classes_accuracy", "accuracy", "macro_f1"
    nothing = (0.0, 0.0)
    comparisons = {
        name: Comparison(0.0, gain, nothing, nothing, nothing)
        for name, gain in zip(names, gains)
    }
    fitted = fit_on_scores(scores_of(1.0), None, "raw", acceptance=acceptance)
    changed = dataclasses.replace(fitted, comparisons=comparisons)
    assert changed.helps is helps


@pytest.mark.parametrize(
    "wrong", [{"judge": "f1"}, {"max_loss": -0.1}, {"max_loss": 2}]
)
def test_acceptance_refuses_what_is_none(wrong):
    with pytest.raises(UsageError, match=f"`{next(iter(wrong))}`"):
        Acceptance(**wrong)
