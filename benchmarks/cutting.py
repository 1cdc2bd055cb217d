"""Times cutting and saving modules, in all and by part.

    python benchmarks/cutting.py

The network is that of `kmod demo`, untrained, with random masks: what is timed
does not depend on what a network has learned. All modules are cut, compared
with the masked model, written as SavedModels and Keras archives, read, and
compared again, by `kmod.decompose`, for `CLASSES` classes. Writes
`cutting.json`: seconds of a module (wall clock), and of a tenth of the modules
written first and last.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from common import machine
from common import write_result

import kmod
from kmod.demo.settings import DIGITS
from kmod.export import write
from kmod.modules import decompose
from kmod.zoo.build import build

CLASSES = (10, 40)
RETENTION = 0.3
IMAGE = (8, 8, 1)
RANGE = (0.0, 16.0)


class Timer:
    """Seconds of each call of functions that it has wrapped, by name."""

    def __init__(self):
        self.seconds = {}

    def wrapped(self, name, function):
        taken = self.seconds.setdefault(name, [])

        def timed(*args, **kwargs):
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                taken.append(time.perf_counter() - began)

        return timed


def modular_model(num_classes: int) -> kmod.ModularModel:
    """Returns an untrained modular model, with random masks."""
    keras.utils.set_random_seed(0)
    source = build(
        "simcnn", IMAGE, num_classes, small=DIGITS.small, width=DIGITS.width
    )
    modular = kmod.ModularModel(source, value_range=RANGE)
    kernels, masks = modular.kernels, modular.kernel_masks
    kept = np.random.default_rng(0).random(masks.shape) < RETENTION
    for layer in kernels.layers:  # None may lose all.
        kept[:, kernels.ids_of(layer)[0]] = True
    modular.kernel_masks = kept
    return modular


def main() -> None:
    timer = Timer()
    for name, form in write.FORMS.items():
        write.FORMS[name] = dataclasses.replace(
            form,
            write=timer.wrapped(f"{name} written", form.write),
            predict=timer.wrapped(f"{name} read and run", form.predict),
        )
    decompose.cut_module = timer.wrapped("cut", decompose.cut_module)
    cells = {}
    for num_classes in CLASSES:
        modular = modular_model(num_classes)
        with tempfile.TemporaryDirectory() as folder:
            kmod.decompose(modular, Path(folder, "first"))  # Compiles it.
            for taken in timer.seconds.values():
                taken.clear()
            began = time.perf_counter()
            kmod.decompose(modular, Path(folder, "store"))
            seconds = time.perf_counter() - began
        parts = {name: taken for name, taken in timer.seconds.items() if taken}
        means = {name: statistics.mean(parts[name]) for name in parts}
        tenth = num_classes // 10
        cells[str(num_classes)] = {
            "seconds_a_module": seconds / num_classes,
            **{f"{name}: seconds": mean for name, mean in means.items()},
            "others: seconds": seconds / num_classes - sum(means.values()),
            "first: seconds": sum(
                sum(taken[:tenth]) / tenth for taken in parts.values()
            ),
            "last: seconds": sum(
                sum(taken[-tenth:]) / tenth for taken in parts.values()
            ),
        }
        print(num_classes, cells[str(num_classes)], flush=True)
    write_result(
        "cutting",
        {
            "command": "python benchmarks/cutting.py",
            "machine": machine(),
            "cells": cells,
        },
    )


if __name__ == "__main__":
    main()
