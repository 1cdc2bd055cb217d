import numpy as np
import pytest
from sklearn import metrics

from kmod.patching.patcher import compare_patches


def test_figures_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    labels, before, after = random.integers(0, 3, (3, 200))
    figures = compare_patches(labels, before, after, ["b", "c"], list("abc"))
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
    low, high = second["recall"]["gain_interval"]
    assert low <= second["recall"]["gain"] <= high
