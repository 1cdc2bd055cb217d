import json

import numpy as np
import pytest
from sklearn import metrics

from kmod.metrics.comparison import compare_answers
from kmod.metrics.comparison import compare_classes
from kmod.metrics.comparison import compare_overall
from kmod.metrics.comparison import is_as_good
from kmod.metrics.evaluate import evaluate_answers


@pytest.fixture
def answers():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 400)
    before, after = (
        np.where(random.random(400) < share, labels, random.integers(0, 4, 400))
        for share in (0.4, 0.8)
    )
    return labels, before, after


def figures_by_sklearn(labels, predictions, target):
    own, taken = labels == target, predictions == target
    right = predictions == labels
    return [
        metrics.precision_score(own, taken),
        metrics.recall_score(own, taken),
        metrics.f1_score(own, taken),
        right[~own].mean(),
    ]


def test_figures_are_those_of_scikit_learn(answers):
    labels, before, after = answers
    compared = compare_answers(labels, before, after, target=2)
    assert list(compared) == [
        "precision",
        "recall",
        "f1",
        "other_classes_accuracy",
    ]
    np.testing.assert_allclose(
        [each.before for each in compared.values()],
        figures_by_sklearn(labels, before, 2),
    )
    np.testing.assert_allclose(
        [each.after for each in compared.values()],
        figures_by_sklearn(labels, after, 2),
    )


def test_intervals_are_those_of_drawn_images(answers):
    labels, before, after = answers
    compared = compare_answers(labels, before, after, target=2)
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        rows = random.integers(0, len(labels), len(labels))
        drawn.append(
            np.subtract(
                figures_by_sklearn(labels[rows], after[rows], 2),
                figures_by_sklearn(labels[rows], before[rows], 2),
            )
        )
    ends = np.percentile(drawn, [2.5, 97.5], axis=0).T
    for each, expected in zip(compared.values(), ends):
        np.testing.assert_allclose(each.gain_interval, expected, atol=0.02)
        assert each.before_interval[0] < each.before < each.before_interval[1]
        assert each.after_interval[0] < each.after < each.after_interval[1]


def overall_by_sklearn(labels, predictions):
    return [
        metrics.accuracy_score(labels, predictions),
        metrics.f1_score(
            labels, predictions, average="macro", labels=np.unique(labels)
        ),
    ]


def test_figures_over_all_are_those_of_scikit_learn(answers):
    labels, before, after = answers
    missing = labels != 3  # A class that is answered, but not shown.
    answers = labels[missing], before[missing], after[missing]
    compared = compare_overall(*answers)
    assert list(compared) == ["accuracy", "macro_f1"]
    found = [(each.before, each.after) for each in compared.values()]
    expected = [overall_by_sklearn(answers[0], each) for each in answers[1:]]
    np.testing.assert_allclose(found, np.transpose(expected))
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        rows = random.integers(0, missing.sum(), missing.sum())
        first, second = (
            overall_by_sklearn(answers[0][rows], each[rows])
            for each in answers[1:]
        )
        drawn.append(np.subtract(second, first))
    ends = np.percentile(drawn, [2.5, 97.5], axis=0).T
    for each, interval in zip(compared.values(), ends):
        np.testing.assert_allclose(each.gain_interval, interval, atol=0.02)
        assert each.before_interval[0] < each.before < each.before_interval[1]


def test_same_answers_differ_by_nothing(answers):
    labels, before, _ = answers
    for each in compare_answers(labels, before, before, 0).values():
        assert (each.gain, each.gain_interval) == (0, (0, 0))


def test_same_seed_same_intervals(answers):
    first, second, other = (
        compare_answers(*answers, 1, seed=seed) for seed in (3, 3, 4)
    )
    assert first == second != other


def test_as_dict_is_json(answers):
    data = compare_answers(*answers, 1)["f1"].as_dict()
    assert json.loads(json.dumps(data))["gain"] == pytest.approx(
        data["after"] - data["before"]
    )


def test_class_that_nobody_names():
    labels, answers = np.array([0, 1, 1]), np.array([1, 1, 1])
    compared = compare_answers(labels, answers, answers, 0)
    assert compared["precision"].before == compared["f1"].before == 0


def test_figures_of_several_classes_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    labels, before, after = random.integers(0, 3, (3, 200))
    figures = compare_classes(labels, before, after, ["b", "c"], list("abc"))
    assert figures["target_class"] == "b"
    for when, answers in (("before", before), ("after", after)):
        p, r, f1, _ = metrics.precision_recall_fscore_support(
            labels, answers, labels=[1], zero_division=0
        )
        assert figures[when] == pytest.approx(
            {"precision": p[0], "recall": r[0], "f1": f1[0]}
        )
        assert figures["accuracy"][when] == pytest.approx(
            metrics.accuracy_score(labels, answers)
        )
    assert [p["target_class"] for p in figures["patches"]] == ["b", "c"]
    second = figures["patches"][1]["figures"]
    assert second["recall"]["after"] == pytest.approx(
        metrics.recall_score(labels == 2, after == 2)
    )
    overall = figures["overall"]
    assert {name: each["after"] for name, each in overall.items()} == (
        pytest.approx(
            {
                "accuracy": metrics.accuracy_score(labels, after),
                "macro_f1": metrics.f1_score(labels, after, average="macro"),
            }
        )
    )
    low, high = second["recall"]["gain_interval"]
    assert low <= second["recall"]["gain"] <= high


@pytest.mark.parametrize(
    ("lost", "gained", "expected"),
    [(0, 0, True), (0, 9, True), (20, 16, True), (20, 4, False)],
    ids=["same", "better", "within-an-error", "worse"],
)
@pytest.mark.parametrize("figure", ["accuracy", "macro_f1"])
def test_one_standard_error_of_pairs_decides(lost, gained, expected, figure):
    """An error is the root of how many answers differ: 6 of 36, 5 of 24."""
    labels = np.arange(200) % 4
    wrong = (labels + 1) % 4
    place = np.arange(200)
    simple = np.where(place < lost, wrong, labels)
    other = np.where(place >= 200 - gained, wrong, labels)
    evaluation = evaluate_answers(labels, simple, tuple("abcd"))
    assert is_as_good(evaluation, other, figure) is expected
