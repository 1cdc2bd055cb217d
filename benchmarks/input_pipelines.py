"""Times epochs on arrays and on a `PyDataset`, read by Keras and by kmod.

    taskset -c 1 python benchmarks/input_pipelines.py

With TensorFlow, Keras reads both by a pipeline that a thread tunes, and an
epoch ends when that thread does. One network trains on the same images both
ways in turn, with epochs of several lengths, from arrays and mirrored and
moved at random; wall-clock and processor time of an epoch are noted. Writes
`benchmarks/results/input_pipelines.json` and `input_pipelines` in the section
`efficiency` of `benchmarks/results/summary.json`.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from common import machine
from common import update_summary
from common import write_result

from kmod.data.image_data import LabelledImages
from kmod.data.streaming import streamed
from kmod.zoo.augmented_images import AugmentedImages
from kmod.zoo.build import build

SHAPE = (32, 32, 3)
CLASSES = 10
BATCH_SIZE = 64
COUNTS = (256, 1024, 4096)  # Images of an epoch.
EPOCHS, ROUNDS = 3, 3


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    cells = {
        kind: {str(count): measure(kind, count) for count in COUNTS}
        for kind in ("arrays", "PyDataset")
    }
    facts = {
        "command": "taskset -c 1 python benchmarks/input_pipelines.py",
        "machine": machine(),
        "cells": cells,
    }
    write_result("input_pipelines", facts)
    ratios = {
        kind: {count: cell["ratio"] for count, cell in own.items()}
        for kind, own in cells.items()
    }
    update_summary("efficiency", {"input_pipelines": ratios})
    print(ratios)


def measure(kind: str, count: int) -> dict:
    """Times epochs of so many images, medians of a few rounds in turn."""
    keras.utils.set_random_seed(0)
    model = build("simcnn", SHAPE, CLASSES)
    model.compile("sgd", "sparse_categorical_crossentropy")
    draw = np.random.default_rng(0)
    images = draw.uniform(0, 255, (count, *SHAPE)).astype("float32")
    labels = draw.integers(CLASSES, size=count)
    given = {"x": images, "y": labels, "batch_size": BATCH_SIZE}
    if kind == "PyDataset":
        data = LabelledImages(images, labels)
        given = {"x": AugmentedImages(data, BATCH_SIZE)}
    ways = {"keras": lambda x: x, "kmod": streamed}
    for prepare in ways.values():
        model.fit(**prepare(given), verbose=0)
    times = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, prepare in ways.items():
            start = time.perf_counter(), time.process_time()
            model.fit(**prepare(given), epochs=EPOCHS, verbose=0)
            end = time.perf_counter(), time.process_time()
            times[way].append([(b - a) / EPOCHS for a, b in zip(start, end)])
    seconds = {
        way: dict(
            zip(("wall", "processor"), map(statistics.median, zip(*rounds)))
        )
        for way, rounds in times.items()
    }
    ratio = seconds["keras"]["wall"] / seconds["kmod"]["wall"]
    return {"seconds": seconds, "ratio": ratio}


if __name__ == "__main__":
    main()
