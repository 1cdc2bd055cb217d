"""Whether frequencies of classes belong into the scores of a composition.

    python benchmarks/priors.py --data-dir DIR [--seeds 3] [--work DIR]

Source models learn an uneven part of a data set, drawn by the paper's Dirichlet
procedure, and their modules, which keep all kernels, are calibrated on
validation images as uneven. One source knows all ten classes; two others know
seven and three of them. All classes, five of them, and the ten classes of both
smaller sources are then told apart by raw scores and by calibrated ones under
each prior, on images of equally frequent classes and on images as frequent as
those learned from. What `kmod` takes by default was chosen on validation
images; those of the test are reported beside. Every finished data set and seed
is kept under `--work`. Writes `benchmarks/results/priors.json`.
"""

import argparse
import dataclasses
import functools
from pathlib import Path

import keras
import numpy as np
import twins
from common import command
from common import machine
from common import part
from common import write_result

from kmod.data.image_data import ImageData
from kmod.data.load import load_data
from kmod.data.subsets import dirichlet_subset
from kmod.data.subsets import hold_out
from kmod.metrics.calibration import prior_shifts
from kmod.modular.modular_model import ModularModel
from kmod.zoo.train import train_source

DATA = ("cifar10", "fashion_mnist")
POOL = 300  # Images of each class.
LEAST = 20  # Of those drawn.
VALIDATION = 0.2
EPOCHS = 12
BATCH_SIZE = 32
ASKED = {"validation": 150, "test": 300}  # Images of each class.
LARGE = 7  # Classes of the larger one of two sources.
FEW = 5  # Classes of a composition of some.


def measure(data_set: str, data_dir: Path, seed: int) -> dict:
    """Trains three sources and measures all that is composed of them."""
    data = _load(data_set, data_dir)
    order = np.random.default_rng(seed).permutation(len(data.class_names))
    whole, large, small = (
        _Source(data, classes, seed)
        for classes in (range(10), order[:LARGE], order[LARGE:])
    )
    compositions = {
        "all ten": [(whole, c) for c in range(10)],
        "five": [(whole, c) for c in sorted(order[:FEW].tolist())],
        "two sources": [
            (large if c in order[:LARGE] else small, c) for c in range(10)
        ],
    }
    figures = {"counts": whole.counts.tolist()}
    for split, count in ASKED.items():
        asked = twins.some(getattr(data, split), count)
        scores = {
            source: source.modular.predict(asked.images, 256, verbose=0)
            for source in (whole, large, small)
        }
        figures[split] = {
            name: _accuracies(asked, scores, modules, seed)
            for name, modules in compositions.items()
        }
    return figures


@functools.lru_cache
def _load(data_set, data_dir):
    return load_data(data_set, data_dir)


class _Source:
    """Modules of some classes of a data set, learned from uneven images."""

    def __init__(self, data: ImageData, classes, seed: int):
        self.classes = [int(c) for c in classes]
        pool = twins.of_classes(twins.some(data.train, POOL), self.classes)
        count = len(self.classes)
        uneven = dirichlet_subset(pool, count, seed, min_count=LEAST)
        train, validation = hold_out(uneven, VALIDATION, seed)
        self.counts = np.bincount(uneven.labels)
        keras.utils.set_random_seed(seed)
        source = twins.simple_net("simcnn", pool.images.shape[1:], count)
        train_source(
            source,
            dataclasses.replace(data, train=train, validation=validation),
            EPOCHS,
            batch_size=BATCH_SIZE,
            seed=seed,
            verbose=0,
        )
        self.modular = ModularModel(source, value_range=data.value_range)
        self.modular.calibrate(validation)
        images = keras.ops.convert_to_numpy(self.modular.calibration_images)
        self.shares = (images / images.sum()).tolist()


def _accuracies(asked, scores, modules, seed):
    """Measures a composition under every prior, at both frequencies."""
    asked_of = np.isin(asked.labels, [c for _, c in modules])
    labels = np.searchsorted([c for _, c in modules], asked.labels[asked_of])
    columns = [source.classes.index(c) for source, c in modules]
    raw = np.stack(
        [
            scores[source][asked_of, column]
            for (source, _), column in zip(modules, columns)
        ],
        axis=1,
    )
    lines = np.stack(
        [
            keras.ops.convert_to_numpy(source.modular.calibration)[column]
            for (source, _), column in zip(modules, columns)
        ]
    )
    log_odds = raw * lines[:, 0] + lines[:, 1]
    shares, counts = (
        [
            getattr(source, key)[column]
            for (source, _), column in zip(modules, columns)
        ]
        for key in ("shares", "counts")
    )
    learned = np.array(counts)
    answers = {
        "none": raw,
        "calibrated": log_odds,
        "even": log_odds + prior_shifts(shares),
        "shares": log_odds
        + prior_shifts(shares, (learned / learned.sum()).tolist()),
    }
    kept = {
        "even": np.arange(len(labels)),
        "as learned": _as_frequent(labels, learned, seed),
    }
    return {
        frequency: {
            prior: float(np.mean(found[rows].argmax(1) == labels[rows]))
            for prior, found in answers.items()
        }
        for frequency, rows in kept.items()
    }


def _as_frequent(labels, counts, seed):
    """Draws images as frequent as `counts`, as many as there can be."""
    random = np.random.default_rng(seed)
    return np.concatenate(
        [
            members[: round(len(members) * count / counts.max())]
            for index, count in enumerate(counts)
            for members in [random.permutation(np.flatnonzero(labels == index))]
        ]
    )


def summarised(cells: dict[str, dict]) -> dict:
    """Averages every accuracy over data sets and seeds, in percent."""
    parts = list(cells.values())
    return {
        split: {
            name: {
                frequency: {
                    prior: round(
                        100
                        * np.mean(
                            [p[split][name][frequency][prior] for p in parts]
                        ),
                        2,
                    )
                    for prior in found
                }
                for frequency, found in first.items()
            }
            for name, first in parts[0][split].items()
        }
        for split in ASKED
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("work/priors"))
    args = parser.parse_args()
    cells = {
        f"{name}, seed {seed}": part(
            args.work / f"{name}-{seed}.json",
            measure,
            name,
            args.data_dir,
            seed,
        )
        for seed in range(1, args.seeds + 1)
        for name in DATA
    }
    result = {
        "command": command(args, "seeds"),
        "machine": machine(),
        "mean": summarised(cells),
        "cells": cells,
    }
    write_result("priors", result)


if __name__ == "__main__":
    main()
