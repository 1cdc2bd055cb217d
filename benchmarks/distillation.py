"""A single network that learned from a composition, beside it.

`distilled_figures` is called by `worlds.py` with the compositions of its
sources: near ones, which share a data set, and far ones.
"""

from typing import Any

import keras
import numpy as np

from kmod.composition.distillation import distil
from kmod.graph.sizes import model_sizes
from kmod.metrics.latency import measure_latency

# Of the sources of `worlds.py`, which are networks of the zoo.
STUDENTS = ("simcnn", "rescnn", "incecnn")


def distilled_figures(
    model: keras.Model,
    images: Any,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    source_model: keras.Model,
    seed: int,
    epochs: int,
    augment: bool = False,
) -> dict[str, dict[str, float]]:
    """Measures a composition and a student of a source's own architecture.

    Args:
        model: The composition.
        images: Images of all its classes, whose labels are not read, as
            `kmod.distil` takes them.
        test_images: Array of images as the composition takes them.
        test_labels: int64 array, their classes among the composition's.
        source_model: The source whose architecture the student has; only its
            name, one of `STUDENTS`, is read.
        seed: Integer.
        epochs: Integer, number of epochs.
        augment: Whether to mirror and move images at random: not with digits
            among them, which cost 4 points (far sources, 8,000 images of each).

    Returns:
        Figures of `composition`, `student` and `source` by name: `macs`,
        `milliseconds` of one image and, but for the source, `accuracy` in
        percent. `agreement` of the student with the composition in percent.
    """
    if source_model.name not in STUDENTS:
        raise ValueError(
            f"`source_model` must be one of {STUDENTS}. Received: "
            f"{source_model.name!r}. Give a source of `worlds.py`."
        )
    student = distil(
        model,
        images,
        source_model.name,
        epochs=epochs,
        augment=augment,
        seed=seed,
        verbose=0,
    )
    made = {"composition": model, "student": student}
    answers = {
        name: each.predict(test_images, batch_size=256, verbose=0).argmax(1)
        for name, each in made.items()
    }
    figures = {
        name: {
            "macs": model_sizes(each).macs,
            "milliseconds": 1000 * measure_latency(each),
        }
        for name, each in {**made, "source": source_model}.items()
    }
    for name, answered in answers.items():
        figures[name]["accuracy"] = 100 * float(
            np.mean(answered == test_labels)
        )
    alike = np.mean(answers["student"] == answers["composition"])
    figures["student"]["agreement"] = 100 * float(alike)
    return figures
