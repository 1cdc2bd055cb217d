import numpy as np
import pytest

from kmod.metrics.reliability import measure_reliability


def test_calibration_error_by_hand():
    confidence = np.array([0.5, 0.45, 0.9, 1.0])
    curve = measure_reliability(confidence, np.array([1, 0, 1, 0]), 2)
    assert curve.counts.tolist() == [2, 2]
    np.testing.assert_allclose(curve.confidence, [0.475, 0.95])
    np.testing.assert_allclose(curve.accuracy, [0.5, 0.5])
    assert curve.calibration_error == pytest.approx((0.025 + 0.45) / 2)


def test_bin_holds_its_upper_edge_and_may_be_empty():
    curve = measure_reliability(np.array([0.5, 0.0]), np.array([1, 0]), 4)
    assert curve.counts.tolist() == [1, 1, 0, 0]
    assert np.isnan(curve.accuracy[2:]).all()
    assert curve.calibration_error == pytest.approx(0.25)
