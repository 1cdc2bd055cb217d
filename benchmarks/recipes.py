"""Compares the published recipe with the default one on one source model.

    python benchmarks/recipes.py --data cifar10 --data-dir DIR

Each finished cell (source model, one recipe) is written at once under
`--work`, and a later call goes on from there. The results are copied to
`benchmarks/results/recipes-DATA.json`. Figures are of test images; epochs are
chosen on validation images.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import keras
import numpy as np
from common import accuracy
from common import machine
from common import write_result

from kmod.data.load import load_data
from kmod.files import atomic_write
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT
from kmod.modular.recipe import PAPER
from kmod.zoo.build import build
from kmod.zoo.train import train_source


def main():
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    data = load_data(args.data, args.data_dir)
    source = trained_source(args, data)
    cells = {
        "default": cell(args, data, source, "default"),
        "paper": cell(args, data, source, "paper"),
    }
    results = {
        "command": "python benchmarks/recipes.py "
        + " ".join(
            f"--{key.replace('_', '-')} {value}"
            for key, value in vars(args).items()
            if key not in ("work", "data_dir")
        ),
        "machine": machine(),
        "source": {
            "network": "small SimCNN",
            "test_accuracy": accuracy(source, data.test),
        },
        "recipes": cells,
    }
    write_result(f"recipes-{args.data}", results)
    print(json.dumps(results, indent=1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("recipes-work"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source-epochs", type=int, default=15)
    parser.add_argument("--train-images", type=int, default=10000)
    parser.add_argument("--default-epochs", type=int, default=10)
    parser.add_argument("--paper-epochs", type=int, default=PAPER.epochs)
    parser.add_argument("--mask-from", default="conv_4")
    parser.add_argument("--retention-target", type=float, default=0.75)
    return parser.parse_args()


def trained_source(args, data):
    path = args.work / "source.keras"
    if not path.exists():
        keras.utils.set_random_seed(args.seed)
        shape = data.train.images.shape[1:]
        source = build("simcnn", shape, len(data.class_names))
        train_source(
            source,
            data,
            args.source_epochs,
            batch_size=128,
            learning_rate=0.1,
            seed=args.seed,
            augment=args.data == "cifar10",
        )
        source.save(path)
    return keras.models.load_model(path)


def cell(args, data, source, name):
    """Runs one recipe, or reads what an earlier call found."""
    path = args.work / f"{name}.json"
    if not path.exists():
        atomic_write(path, json.dumps(run(args, data, source, name)))
    return json.loads(path.read_text())


def run(args, data, source, name):
    few = data.train.take(np.arange(args.train_images) % len(data.train))
    epochs = args.paper_epochs
    recipe, mask_from = PAPER, None
    if name == "default":
        epochs, mask_from = args.default_epochs, args.mask_from
        recipe = dataclasses.replace(
            DEFAULT, retention_target=args.retention_target
        )
    clock = EpochClock()
    modular = modularize(
        source,
        (few.images, few.labels),
        (data.validation.images, data.validation.labels),
        recipe=recipe,
        mask_from=mask_from,
        epochs=epochs,
        seed=args.seed,
        run_directory=args.work / f"{name}-run",
        resume=(args.work / f"{name}-run" / "run.json").exists(),
        callbacks=[clock],
        verbose=2,
    )
    scores = modular.class_log_odds(data.test.images)
    history = modular.history.history
    return {
        "epochs": epochs,
        "of_epochs": recipe.epochs or epochs,
        "images_per_epoch": len(few),
        "test_accuracy": float(np.mean(scores.argmax(1) == data.test.labels)),
        "retention_rate": modular.retention_rate,
        "seconds_per_epoch": float(np.median(clock.seconds)),
        "last_epoch": {
            "validation_accuracy": history["val_accuracy"][-1],
            "retention_rate": history["retention_rate"][-1],
        },
    }


class EpochClock(keras.callbacks.Callback):
    """Times the training part of every epoch, validation left out."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


if __name__ == "__main__":
    main()
