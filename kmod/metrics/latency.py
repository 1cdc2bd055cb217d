"""How long a model takes to answer."""

import statistics
import time

import keras
import numpy as np

WARM_UP_RUNS = 3


def measure_latency(
    model: keras.Model, batch_size: int = 1, repeats: int = 20
) -> float:
    """Measures the time of one prediction.

    A few predictions that are not counted come first: they compile the model.

    Args:
        model: Model with one input of known shape.
        batch_size: Integer, images to a prediction.
        repeats: Integer, number of predictions to measure.

    Returns:
        Median time of one prediction in seconds.
    """
    images = np.zeros((batch_size, *model.input_shape[1:]), "float32")
    seconds = []
    for _ in range(WARM_UP_RUNS + repeats):
        start = time.perf_counter()
        model.predict_on_batch(images)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP_RUNS:])
