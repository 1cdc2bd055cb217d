"""Compares what two devices of one host find with what one finds.

    python benchmarks/devices.py [--data-dir DIR] [--work DIR]

Masks are searched for one epoch, each time from the same source and seeds: on
one device, on two, and on one with another seed of drawn modules, which says
how much masks differ that are no worse. `tensorflow`: two logical devices of
the processor under `tf.distribute.MirroredStrategy`; `jax`: two host devices
under `keras.distribution.DataParallel` (extra `jax`). Networks: a small SimCNN
of digits; with `--data-dir` a SimCNN of CIFAR-10, a quarter as wide as the
paper's, on TensorFlow. The two share the cores of one, so times say nothing of
accelerators. Accuracy is of test images. Every finished part is kept under
`--work`. Writes `benchmarks/results/devices.json` and `devices` in the section
`scale` of `benchmarks/results/summary.json`.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path

import keras
import numpy as np
from common import accuracy
from common import command
from common import in_child
from common import part
from common import update_cells
from common import update_summary
from networks import untrained

from kmod.callbacks.epoch_checkpoints import EpochSeed
from kmod.data.load import load_data
from kmod.modular.modular_model import ModularModel
from kmod.zoo.build import build
from kmod.zoo.train import train_source

CELLS = (("digits", "tensorflow"), ("digits", "jax"), ("cifar10", "tensorflow"))
SOURCE_IMAGES = 10000
SOURCE_EPOCHS = {"digits": 8, "cifar10": 5}
IMAGES = {"digits": 1024, "cifar10": 4096}  # Whole batches.
TEST_IMAGES = 2000
BATCH_SIZE = 64
RETENTION_TARGET = 0.4
BARS = {"equal_masks": 0.995, "points": 0.5}
ENVIRONMENT = {
    "tensorflow": {"KERAS_BACKEND": "tensorflow"},
    "jax": {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    },
}


def main():
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    cells = {}
    for data_name, backend in CELLS:
        if data_name != "digits" and args.data_dir is None:
            continue
        source = args.work / f"{data_name}.keras"
        if not source.exists():
            in_child(train, source, data_name, args.data_dir)
        name = f"{data_name}-{backend}"
        with environment(ENVIRONMENT[backend]):
            cells[name] = part(
                args.work / f"{name}.json",
                in_child,
                compare,
                source,
                data_name,
                args.data_dir,
            )
    update_cells("devices", cells, command(args))
    short = {
        name: {key: cell[key] for key in ("equal_masks", "points", "control")}
        for name, cell in cells.items()
    }
    update_summary("scale", {"devices": short})
    print(json.dumps(cells, indent=1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("devices-work"))
    return parser.parse_args()


@contextlib.contextmanager
def environment(variables):
    """Sets variables that new processes read."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def train(path: Path, data_name: str, data_dir: str | None) -> dict:
    data = load_data(data_name, data_dir)
    few = data.train.take(np.arange(min(SOURCE_IMAGES, len(data.train))))
    data = dataclasses.replace(data, train=few)
    keras.utils.set_random_seed(0)
    if data_name == "digits":
        source = build("simcnn", data.train.images.shape[1:], 10)
    else:
        source = untrained("simcnn", data)
    train_source(source, data, SOURCE_EPOCHS[data_name], verbose=2)
    source.save(path)
    return {}


def compare(path: Path, data_name: str, data_dir: str | None) -> dict:
    """Searches masks on one device, on two and with another seed."""
    one_device, two_devices = devices()
    data = load_data(data_name, data_dir)
    source = keras.models.load_model(path)
    train = data.train.take(np.arange(IMAGES[data_name]))
    test = data.test.take(np.arange(min(TEST_IMAGES, len(data.test))))
    found = {
        "one": search(source, train, test, one_device),
        "two": search(source, train, test, two_devices),
        "other_seed": search(source, train, test, one_device, seed=1),
    }
    one, two, other = (run.pop("masks") for run in found.values())
    difference = found["two"]["accuracy"] - found["one"]["accuracy"]
    figures = {
        "source_accuracy": accuracy(source, test),
        "equal_masks": float(np.mean(one == two)),
        "points": 100 * difference,
        "control": float(np.mean(one == other)),
    }
    figures["is_within_bars"] = (
        figures["equal_masks"] >= BARS["equal_masks"]
        and abs(figures["points"]) <= BARS["points"]
    )
    return {**figures, "bars": BARS, "runs": found}


def devices():
    """Returns what opens the scope of one device, and that of two."""
    if keras.backend.backend() == "jax":
        both = keras.distribution.DataParallel(
            devices=keras.distribution.list_devices()
        )
        assert both.num_model_replicas == 2
        return contextlib.nullcontext, both.scope
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return contextlib.nullcontext, strategy.scope


def search(source, train, test, scope, seed=0):
    with scope():
        keras.utils.set_random_seed(0)
        modular = ModularModel(
            source, retention_target=RETENTION_TARGET, seed=seed
        )
        modular.compile()
        start = time.perf_counter()
        modular.fit(
            train.images,
            train.labels,
            batch_size=BATCH_SIZE,
            callbacks=[EpochSeed(0)],  # As `modularize` does.
            verbose=2,
        )
        seconds = time.perf_counter() - start
        scores = modular.class_scores(test.images)
    return {
        "accuracy": float(np.mean(scores.argmax(1) == test.labels)),
        "retention_rate": modular.retention_rate,
        "seconds": seconds,
        "masks": modular.kernel_masks,
    }


if __name__ == "__main__":
    main()
