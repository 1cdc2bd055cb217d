"""Builds what the example specs take their modules from.

Usage, from this folder:

    python build_sources.py

Trains three small networks on the digits that come with scikit-learn, about a
minute, and writes beside this folder

- `modules/digits`: modules for grey images of 8x8, from 0 to 255,
- `modules/digits_rgb`: modules for RGB images of 16x16, from -1 to 1,
- `models/weak_digits.keras`: a model that takes every 8 for something else,
- `images/digits.npz`: the digits, in the place of images of your own.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

import kmod

RGB_RANGE = (-1.0, 1.0)
BLIND_TO = 8


def build_sources(folder: str | Path, epochs: int = 10) -> None:
    """Writes the stores, the weak model and the images.

    Args:
        folder: Where `modules`, `models` and `images` shall be.
        epochs: Epochs of each training.
    """
    folder = Path(folder)
    data = kmod.load_data("digits")
    parts = {name: getattr(data, name) for name in ("train", "validation")}
    grey = {name: (p.images, p.labels) for name, p in parts.items()}
    rgb = {name: (_to_rgb(x), y) for name, (x, y) in grey.items()}
    _build_store(folder / "modules/digits", grey, epochs, data.value_range)
    _build_store(folder / "modules/digits_rgb", rgb, epochs, RGB_RANGE)
    (folder / "models").mkdir(exist_ok=True)
    images, labels = grey["train"]
    is_seen = labels != BLIND_TO
    weak = _train((images[is_seen], labels[is_seen]), epochs, data.value_range)
    weak.save(folder / "models/weak_digits.keras")
    (folder / "images").mkdir(exist_ok=True)
    arrays = {}
    for split in ("train", "validation", "test"):
        part = getattr(data, split)
        arrays |= {f"x_{split}": part.images, f"y_{split}": part.labels}
    np.savez(folder / "images/digits.npz", **arrays)


def _to_rgb(images):
    """Twice the size, three equal channels, other range."""
    large = images.repeat(2, axis=1).repeat(2, axis=2).repeat(3, axis=3)
    return (large / 127.5 - 1).astype("float32")


def _build_store(path, data, epochs, value_range):
    source = _train(data["train"], epochs, value_range)
    modular = kmod.modularize(
        source, data["train"], data["validation"], epochs=epochs, verbose=0
    )
    kmod.decompose(
        modular,
        path,
        data=data["validation"],
        value_range=value_range,
        license="Apache-2.0",
        overwrite=True,
    )


def _train(data, epochs, value_range):
    images, labels = data
    low, high = value_range
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            keras.layers.Rescaling(1 / (high - low), -low / (high - low)),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv_1"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(10, activation="softmax", name="digits"),
        ],
        name=f"digits_{images.shape[1]}x{images.shape[2]}",
    )
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
    )
    model.fit(images, np.asarray(labels), 32, epochs=epochs, verbose=0)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    build_sources(
        Path(__file__).resolve().parents[1], parser.parse_args().epochs
    )
