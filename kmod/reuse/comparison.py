"""Compares a weak model with its patched one, for people and for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kmod.composition.patcher import compare_patch
from kmod.evaluation.intervals import compare_answers
from kmod.evaluation.metrics import evaluate_answers


def compare_patches(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    targets: Sequence[str],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Compares the answers of a weak model and of the patched one.

    Args:
        labels: int64 array `(n,)`, true class indices of test images.
        before: int64 array `(n,)`, answers of the weak model.
        after: int64 array `(n,)`, answers of the patched model.
        targets: Names of the patched classes.
        class_names: Names of all classes.

    Returns:
        What `compare_patch` returns of the first target, with the `accuracy`
        on all images before and after, and as `patches` for every target its
        `target_class` and `figures`: of each figure what `Comparison` holds.
    """
    evaluations = [
        evaluate_answers(labels, answers, class_names)
        for answers in (before, after)
    ]
    patches = []
    for target in targets:
        index = list(class_names).index(target)
        compared = compare_answers(labels, before, after, index)
        figures = {name: each.as_dict() for name, each in compared.items()}
        patches.append({"target_class": target, "figures": figures})
    return {
        **compare_patch(*evaluations, targets[0]),
        "accuracy": {
            when: each.accuracy
            for when, each in zip(("before", "after"), evaluations)
        },
        "patches": patches,
    }
