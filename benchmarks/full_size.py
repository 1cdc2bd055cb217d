"""Runs the paper's set-up at full size on an accelerator.

On a machine that has CIFAR-10, once, and then where the accelerator is:

    python benchmarks/full_size.py --export-data DATA.npz --data-dir DIR
    KERAS_BACKEND=jax python benchmarks/full_size.py --data DATA.npz

SimCNN, ResCNN and InceCNN in their published width on the published unevenly
drawn part of CIFAR-10, four fifths to train on and one to choose epochs by:
the source model, then masks by the paper's recipe (145 epochs) and by the
default one. The second command needs Keras, JAX and scikit-learn, neither
TensorFlow nor its data sets; without installing kmod, set `PYTHONPATH` to its
checkout. Every epoch is backed up under `--work` and every finished cell
written there, so a run that was cut short goes on where it stopped. Figures
are of all test images. With `--minutes` the recipes end early. Writes
`benchmarks/results/full_size.json` and the section `full_size` of
`benchmarks/results/summary.json`.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
from accelerator import Clock
from accelerator import deadline_of
from accelerator import device
from accelerator import export_data
from accelerator import find_masks
from accelerator import points_lost
from accelerator import read_data
from common import accuracy
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result

from kmod.data.image_data import SPLITS
from kmod.data.image_data import LabelledImages
from kmod.data.subsets import dirichlet_subset
from kmod.graph.sizes import model_sizes
from kmod.modular.recipe import DEFAULT
from kmod.modular.recipe import PAPER
from kmod.zoo.build import ARCHITECTURES
from kmod.zoo.build import build
from kmod.zoo.train import train_source

RESULT = "full_size"
RECIPES = {"default": DEFAULT, "paper": PAPER}


def main():
    args = parse_arguments()
    if args.export_data:
        return export_data(args.export_data, args.data_dir)
    data = estimator_data(args)
    for name in args.networks:
        figures = {
            "command": "KERAS_BACKEND=jax python benchmarks/full_size.py "
            "--data DATA.npz",
            "settings": settings(args),
            "machine": {**machine(), "device": device()},
            **measure(args, data, name),
        }
        if not args.dry_run:
            write_result(RESULT, {**read_result(RESULT), name: figures})
            update_summary(RESULT, {name: short(figures)})
        print(json.dumps(figures, indent=1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="what --export-data wrote")
    parser.add_argument("--export-data", type=Path, metavar="DATA.npz")
    parser.add_argument("--data-dir", help="of the prepared data sets")
    parser.add_argument("--work", type=Path, default=Path("full_size-work"))
    networks = sorted(ARCHITECTURES)
    parser.add_argument(
        "--networks", nargs="+", choices=networks, default=networks
    )
    parser.add_argument(
        "--estimator", type=int, default=1, help="the paper's seed of its data"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--images", type=int, help="of each split, as a test")
    parser.add_argument("--source-epochs", type=int, default=100)
    parser.add_argument("--paper-epochs", type=int, default=PAPER.epochs)
    parser.add_argument("--default-epochs", type=int, default=20)
    parser.add_argument(
        "--minutes", type=float, help="until the last epoch begins"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write no results"
    )
    args = parser.parse_args()
    if not (args.data or args.export_data):
        parser.error("give --data, or --export-data to write it first")
    args.deadline = deadline_of(args.minutes)
    return args


def settings(args):
    left_out = (
        "data",
        "export_data",
        "data_dir",
        "work",
        "dry_run",
        "deadline",
    )
    return {k: v for k, v in vars(args).items() if k not in left_out}


def estimator_data(args):
    """Returns the data that the paper's estimator of a seed was trained on."""
    data = read_data(args.data)
    drawn = dirichlet_subset(
        LabelledImages(
            np.concatenate([data.train.images, data.validation.images]),
            np.concatenate([data.train.labels, data.validation.labels]),
        ),
        len(data.class_names),
        args.estimator,
        min_count=1 if args.images else 100,
    )
    order = np.random.default_rng(args.estimator).permutation(len(drawn))
    end = round(0.8 * len(drawn))
    few = slice(args.images)
    return dataclasses.replace(
        data,
        train=drawn.take(order[:end][few]),
        validation=drawn.take(order[end:][few]),
        test=data.test.take(np.arange(len(data.test))[few]),
    )


def short(figures):
    """Returns what the summary holds of a network's figures, by recipe."""
    source = figures["source"]
    names = ("retention_rate", "macs_ratio", "epochs", "seconds")
    found = {}
    for recipe in RECIPES:
        own = figures[recipe]
        found[recipe] = {
            "validation_loss": points_lost(source, own, "validation_accuracy"),
            "accuracy_loss": points_lost(source, own, "accuracy"),
            **{name: own[name] for name in names},
        }
    return found


def measure(args, data, name):
    folder = args.work / name
    folder.mkdir(parents=True, exist_ok=True)
    trained = part(folder / "source.json", train, args, data, name, folder)
    source = keras.models.load_model(folder / "source.keras")
    return {
        "images": {s: len(getattr(data, s)) for s in SPLITS},
        "source": trained,
        **{
            recipe: part(
                folder / f"{recipe}.json",
                search,
                args,
                data,
                source,
                recipe,
                folder,
            )
            for recipe in RECIPES
        },
    }


def train(args, data, name, folder):
    """Trains a source model, from the last whole epoch on."""
    keras.utils.set_random_seed(args.seed)
    shape = data.train.images.shape[1:]
    source = build(name, shape, len(data.class_names), False, args.width)
    clock = Clock(folder / "source-epochs.json")
    train_source(
        source,
        data,
        args.source_epochs,
        batch_size=128,
        seed=args.seed,
        augment=True,
        verbose=2,
        callbacks=[
            keras.callbacks.BackupAndRestore(folder / "source-backup"),
            clock,
        ],
    )
    source.save(folder / "source.keras")
    sizes = model_sizes(source)
    return {
        **dataclasses.asdict(sizes),
        "validation_accuracy": accuracy(source, data.validation),
        "accuracy": accuracy(source, data.test),
        "seconds": clock.seconds,
    }


def search(args, data, source, recipe, folder):
    return find_masks(
        source,
        data,
        RECIPES[recipe],
        getattr(args, f"{recipe}_epochs"),
        folder,
        deadline=args.deadline,
        seed=args.seed,
    )


if __name__ == "__main__":
    main()
