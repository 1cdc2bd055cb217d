"""Leaves one part of the default recipe out at a time.

    python benchmarks/ablation.py --data-dir DIR --source SOURCE.keras

The modules of a network trained on CIFAR-10, such as the ResCNN that
`efficiency.py` leaves in its `--work`, are searched on some images, each time
with one thing changed, down to the same share of kernels. What is compared is
the accuracy of all ten modules together on validation images, since this is
what the recipe was chosen by, and on test images; and the time. Every finished
cell is kept under `--work`. Writes `benchmarks/results/ablation.json`.
"""

import argparse
import dataclasses
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from common import accuracy
from common import machine
from common import part
from common import write_result

from kmod.data.load import load_data
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT

BATCH_SIZE = 64
CHANGES = {
    "default": {},
    "no distillation": {"distillation": 0.0},
    "distillation only as strong as the labels": {"distillation": 1.0},
    "no scale and shift": {"scale_and_shift": False},
    "heads with ten hidden units": {"hidden_units": 10},
    "all modules see every image": {"rows_per_image": 0},
    "importance of each kernel by itself": {"own_importance": 1.0},
    "removal at once": {"warm_up": 0.0, "removal_end": 0.01},
    "removal until the end": {"removal_end": 1.0},
    "rates of 0.001": {"head_rate": 0.001, "adapt_rate": 0.001},
}
NO_STEM = "no stem: masks from the first layer"
NO_CACHE = "what is before the masks run in every step"


def main():
    args = parse_arguments()
    data = load_data("cifar10", args.data_dir)
    source = keras.models.load_model(args.source)
    cells = {
        name: part(
            args.work / f"{index}.json", search, args, data, source, name
        )
        for index, name in enumerate([*CHANGES, NO_CACHE, NO_STEM])
    }
    result = {
        "command": "python benchmarks/ablation.py --data-dir DIR "
        "--source SOURCE.keras",
        "machine": machine(),
        "seed": args.seed,
        "images": args.images,
        "epochs": args.epochs,
        "mask_from": args.mask_from,
        "retention_target": args.retention_target,
        "source": {
            split: accuracy(source, getattr(data, split))
            for split in ("validation", "test")
        },
        "cells": cells,
    }
    write_result("ablation", result)
    for name, cell in cells.items():
        print(f"{name:45} {cell}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--source", required=True, metavar="SOURCE.keras")
    parser.add_argument("--work", type=Path, default=Path("ablation-work"))
    parser.add_argument("--mask-from", default="conv_6", metavar="LAYER")
    parser.add_argument("--retention-target", type=float, default=0.35)
    parser.add_argument("--images", type=int, default=8000, metavar="N")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def search(args, data, source, name):
    some = np.random.default_rng(args.seed).permutation(len(data.train))
    few = data.train.take(some[: args.images])
    train = few.images, few.labels
    if name == NO_CACHE:  # Only arrays are kept.
        train = tf.data.Dataset.from_tensor_slices(train)
        train = train.shuffle(len(few), seed=args.seed).batch(BATCH_SIZE)
    modular = modularize(
        source,
        train,
        (data.validation.images, data.validation.labels),
        recipe=dataclasses.replace(
            DEFAULT,
            retention_target=args.retention_target,
            **CHANGES.get(name, {}),
        ),
        mask_from=None if name == NO_STEM else args.mask_from,
        epochs=args.epochs,
        batch_size=BATCH_SIZE,
        accuracy_budget=1.0,  # The target counts; the loss is compared.
        seed=args.seed,
        verbose=2,
    )
    return {
        "retention_rate": modular.retention_rate,
        "validation": accuracy(modular, data.validation),
        "test": accuracy(modular, data.test),
    }


if __name__ == "__main__":
    main()
