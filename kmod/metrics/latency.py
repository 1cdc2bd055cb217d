"""How long a model takes to answer."""

import statistics
import time
from collections.abc import Sequence

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
    seconds = [_time(model, images) for _ in range(WARM_UP_RUNS + repeats)]
    return statistics.median(seconds[WARM_UP_RUNS:])


def latency_ratio(
    model: keras.Model, others: Sequence[keras.Model], repeats: int = 60
) -> float:
    """Measures the time of one prediction as a multiple of other models'.

    They take turns at single predictions, and of each the fastest counts.
    What else the machine does then slows down none of them more than others,
    and spares one prediction of each, at least.

    Args:
        model: As for `measure_latency`.
        others: Models whose times are added.
        repeats: Integer, number of predictions of each to measure.

    Returns:
        The ratio; above 1 if `model` is slower.
    """
    models = (model, *others)
    images = [np.zeros((1, *m.input_shape[1:]), "float32") for m in models]
    seconds = np.array(
        [
            [_time(*each) for each in zip(models, images)]
            for _ in range(WARM_UP_RUNS + repeats)
        ]
    )
    fastest = seconds[WARM_UP_RUNS:].min(axis=0)
    return float(fastest[0] / fastest[1:].sum())


def _time(model, images):
    start = time.perf_counter()
    model.predict_on_batch(images)
    return time.perf_counter() - start
