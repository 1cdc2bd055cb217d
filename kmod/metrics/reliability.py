"""Calibration of a classifier: its confidence beside its accuracy."""

import dataclasses

import numpy as np

NUM_BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """The accuracy of answers, by their confidence (reliability diagram).

    Attributes:
        edges: Float array `(num_bins + 1,)`, bin edges from 0 to 1.
        counts: int64 array `(num_bins,)`: answers in each bin.
        confidence: Float array, per bin: its mean, not a number in an
            empty bin.
        accuracy: Float array, per bin: share of right ones, not a number in
            an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def calibration_error(self) -> float:
        """Mean difference of the two, 0 to 1, over all answers (ECE)."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float(gaps @ self.counts / self.counts.sum())


def measure_reliability(
    confidence: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS
) -> ReliabilityCurve:
    """Compares the confidence of answers with their accuracy.

    Args:
        confidence: Float array `(n,)`, probability of every answer, 0 to 1.
        is_right: Boolean array `(n,)`.
        num_bins: Integer, bins of equal width.

    Reference:

    - [Guo et al., 2017](https://arxiv.org/abs/1706.04599), section 2.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    # A bin holds its upper edge, as in the paper.
    bins = np.clip(np.ceil(confidence * num_bins) - 1, 0, num_bins - 1)
    bins = bins.astype("int64")
    counts = np.bincount(bins, minlength=num_bins)
    sums = (
        np.bincount(bins, weights=values, minlength=num_bins)
        for values in (confidence, is_right)
    )
    means = (np.where(counts, s / np.maximum(counts, 1), np.nan) for s in sums)
    return ReliabilityCurve(edges, counts, *means)
