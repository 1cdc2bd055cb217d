"""Chooses from where on a patched model answers with the target class."""

import numpy as np

from kmod.patching.patch_figures import Scores

# How many standard errors the recall and the others' accuracy shall be above
# the weak model's, because what just holds on these images does not on others.
CAUTION = 2.0
# What a point that recall and the others' accuracy lack of that costs, in
# points of F1.
RECALL_PENALTY = 3.0
OTHERS_PENALTY = 5.0
# Places that are worse than the best one by no more than this are as good: the
# one that changes the fitted layer least is taken.
TOLERANCE = 0.03


def best_shift(values: np.ndarray, scores: Scores) -> float:
    """Returns what to add to the target's scores.

    To where the F1 of the target and the accuracy on the other classes are
    highest together, less what recall and that accuracy lack of the weak
    model's and of `CAUTION` standard errors more; the errors are of pairs,
    since both models answer for the same images.

    Args:
        values: Float array `(n, num_classes)`, scores of images that they
            were not fitted on.
        scores: What weak model and module say of these images.
    """
    # Images are taken for the target one after another, the likeliest first;
    # every sum is over those taken so far.
    target, is_target = scores.target, scores.is_target
    rest = values.copy()
    rest[:, target] = -np.inf
    limits = rest.max(axis=1) - values[:, target]
    order = np.argsort(limits, kind="stable")
    own = is_target[order]
    known = (scores.predictions == scores.labels)[order]
    right = (rest.argmax(axis=1) == scores.labels)[order] & ~own

    hits = _sums(own)
    taken = np.arange(len(order) + 1)
    f1 = 2 * hits / np.maximum(taken + own.sum(), 1)
    gained = _gain(hits, own & known, own)
    kept = right.sum() - _sums(right)
    spared = _gain_of_others(kept, right, known & ~own, own)
    value = (
        f1
        + kept / max(np.sum(~own), 1)
        - RECALL_PENALTY * np.maximum(-gained, 0)
        - OTHERS_PENALTY * np.maximum(-spared, 0)
    )
    ends = np.concatenate([[-np.inf], limits[order], [np.inf]])
    good = np.flatnonzero(value >= value.max() - TOLERANCE)
    return min((_between(ends, index) for index in good), key=abs)


def _gain(hits, known, own):
    """Recall above the weak model's, less the caution."""
    changed = known.sum() + hits - 2 * _sums(known)
    count = max(own.sum(), 1)
    return (hits - known.sum() - CAUTION * np.sqrt(changed)) / count


def _gain_of_others(kept, right, known, own):
    """Accuracy on the others above the weak model's, less the caution."""
    differs = right ^ known
    changed = differs.sum() - _sums(differs) + _sums(known)
    count = max((~own).sum(), 1)
    return (kept - known.sum() - CAUTION * np.sqrt(changed)) / count


def _sums(flags):
    return np.concatenate([[0], np.cumsum(flags)])


def _between(ends, index):
    """A shift that takes the first images: none, or one in the middle."""
    low, high = ends[index], ends[index + 1]
    if low < 0 < high:
        return 0.0
    if np.isinf(low):
        return float(high - 1)
    return float(low + 1 if np.isinf(high) else (low + high) / 2)
