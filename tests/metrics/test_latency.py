import time

import keras
import pytest

from kmod.metrics.latency import WARM_UP_RUNS
from kmod.metrics.latency import latency_ratio
from kmod.metrics.latency import measure_latency


class Slow:
    """Answers slowly at first, then in the given times."""

    input_shape = (None, 4, 4, 1)

    def __init__(self, seconds):
        self.seconds = [0.5] * WARM_UP_RUNS + seconds
        self.shapes = []

    def predict_on_batch(self, images):
        self.shapes.append(images.shape)
        time.sleep(self.seconds.pop(0))


def test_median_after_warm_up():
    model = Slow([0.01, 0.03, 0.2])
    assert measure_latency(model, 2, repeats=3) == pytest.approx(0.03, abs=0.02)
    assert set(model.shapes) == {(2, 4, 4, 1)}


def test_ratio_leaves_out_what_else_the_machine_does():
    disturbed = Slow([0.3, 0.02, 0.3])
    others = [Slow([0.01, 0.2, 0.2]), Slow([0.2, 0.2, 0.03])]
    ratio = latency_ratio(disturbed, others, repeats=3)
    assert ratio == pytest.approx(0.5, abs=0.2)
    assert set(disturbed.shapes) == {(1, 4, 4, 1)}


def test_latency_of_a_keras_model():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    assert 0 < measure_latency(model, repeats=3) < 5
