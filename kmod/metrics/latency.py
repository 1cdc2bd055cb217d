"""How long a model takes to answer."""

import statistics
import time
from collections.abc import Sequence

import keras
import numpy as np

WARM_UP_RUNS = 3
ROUNDS = 3


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


def latency_ratio(
    model: keras.Model, others: Sequence[keras.Model], repeats: int = 20
) -> float:
    """Measures the time of one prediction as a multiple of other models'.

    They take turns, so that whatever else the machine does slows down all of
    them, and of each the fastest turn counts.

    Args:
        model: As for `measure_latency`.
        others: Models whose times are added.
        repeats: As for `measure_latency`.

    Returns:
        The ratio; above 1 if `model` is slower.
    """
    seconds = np.min(
        [
            [
                measure_latency(each, repeats=repeats)
                for each in (model, *others)
            ]
            for _ in range(ROUNDS)
        ],
        axis=0,
    )
    return float(seconds[0] / seconds[1:].sum())
