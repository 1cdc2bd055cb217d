"""What benchmarks on an accelerator share: data, recipes, a clock.

The machine with the accelerator needs Keras, JAX and scikit-learn, neither
TensorFlow nor its data sets.
"""

import json
import math
import time
from pathlib import Path

import keras
import numpy as np
from common import accuracy

from kmod.data.image_data import SPLITS
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.files.run_directory import RUN_FILE
from kmod.modular.modularize import modularize
from kmod.modular.recipe import Recipe


def export_data(path: Path, data_dir: str) -> None:
    """Writes CIFAR-10 as arrays that NumPy reads."""
    from kmod.data.load import load_data

    data = load_data("cifar10", data_dir)
    arrays = {}
    for split in SPLITS:
        images = getattr(data, split)
        arrays[f"{split}_images"] = images.images
        arrays[f"{split}_labels"] = images.labels
    np.savez_compressed(
        path, class_names=data.class_names, version=data.version, **arrays
    )


def read_data(path: Path, num_images: int | None = None) -> ImageData:
    """Reads what `export_data` wrote.

    Args:
        path: That file.
        num_images: Images to take of each split, or `None` for all.
    """
    with np.load(path) as file:
        arrays = dict(file)
    splits = (
        LabelledImages(
            arrays[f"{split}_images"][:num_images],
            arrays[f"{split}_labels"][:num_images],
        )
        for split in SPLITS
    )
    names = tuple(map(str, arrays["class_names"]))
    return ImageData(
        "cifar10", str(arrays["version"]), names, (0.0, 255.0), *splits
    )


def device() -> str:
    """Names what the backend computes on."""
    if keras.backend.backend() != "jax":
        return keras.backend.backend()
    import jax

    return jax.devices()[0].device_kind


def find_masks(
    source: keras.Model,
    data: ImageData,
    recipe: Recipe,
    epochs: int,
    folder: Path,
    *,
    deadline: float = math.inf,
    seed: int = 0,
) -> dict:
    """Finds masks by a recipe, from the last whole epoch on.

    What `validation_accuracy` compares are raw scores, as the choice of the
    epoch does; `accuracy` is of calibrated ones, as a composition's.

    Args:
        source: The source model.
        data: Masks are trained on its training images, the epoch is chosen on
            its validation images, the figures are of its test images.
        recipe: The recipe.
        epochs: Integer, number of epochs.
        folder: Directory of backups and times.
        deadline: Time after which no further epoch begins.
        seed: Integer, seed of `modularize`.

    Returns:
        Dict of the masks' figures, and of every epoch's.
    """
    directory = folder / f"{recipe.name}-run"
    clock = Clock(folder / f"{recipe.name}-epochs.json", deadline)
    modular = modularize(
        source,
        (data.train.images, data.train.labels),
        (data.validation.images, data.validation.labels),
        class_names=data.class_names,
        recipe=recipe,
        epochs=epochs,
        seed=seed,
        run_directory=directory,
        resume=(directory / RUN_FILE).exists(),
        callbacks=[clock],
        verbose=2,
    )
    answers = modular.class_log_odds(data.test.images).argmax(1)
    composition = modular.macs.of_composition(modular.masks.mask.value)
    return {
        "validation_accuracy": accuracy(modular, data.validation),
        "accuracy": float(np.mean(answers == data.test.labels)),
        "retention_rate": modular.retention_rate,
        "macs_ratio": float(composition),
        "epochs": len(clock.epochs),
        "seconds": clock.seconds,
        "by_epoch": clock.epochs,
    }


def points_lost(before: dict, after: dict, name: str) -> float:
    """Returns by how many points the masks' figure is under the source's."""
    return round(100 * (before[name] - after[name]), 6)


def deadline_of(minutes: float | None) -> float:
    """Returns the value of `time.monotonic` in so many minutes."""
    return math.inf if minutes is None else time.monotonic() + 60 * minutes


class Clock(keras.callbacks.Callback):
    """Notes every epoch's time and figures, over all the runs of a training.

    Args:
        path: JSON file, a list of epochs.
        deadline: Value of `time.monotonic` after which training stops.
    """

    def __init__(self, path: Path, deadline: float = math.inf):
        super().__init__()
        self.path = path
        self.deadline = deadline
        self._start = None

    @property
    def epochs(self) -> list[dict]:
        """Seconds, validation accuracy and retention rate of each epoch."""
        return json.loads(self.path.read_text()) if self.path.exists() else []

    @property
    def seconds(self) -> float:
        """Time of all epochs, with their validation."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        names = ("val_accuracy", "retention_rate")
        figures = {name: logs[name] for name in names if name in logs}
        seconds = time.perf_counter() - self._start
        noted = self.epochs[:epoch] + [{"seconds": seconds, **figures}]
        self.path.write_text(json.dumps(noted))
        if time.monotonic() > self.deadline:
            self.model.stop_training = True
