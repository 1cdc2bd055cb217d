"""Compares the methods that choose kernels, and two controls.

    python benchmarks/methods.py --data-dir DIR [--networks simcnn ...]

For each network and data set, on the same source model and behind the same
stem: GradSplitter with its default recipe, CNNSplitter, and controls with as
many kernels of each layer and class as CNNSplitter's modules, the most
important or random ones. As in the paper CNNSplitter's modules and the controls
train nothing. What heads, scales and shifts add, trained on as many images as
GradSplitter's, is a column of its own. All are composed with `calibration:
joint`, fitted to the validation images that masks are chosen on; composed with
each module's own calibration is another column. The settings of the search were
chosen on validation images, too, of small SimCNN on CIFAR-10. Figures are of
the first 5,000 test images. Modules are not cut here: that cut modules answer
as the masked model does is checked whenever a store is made.

A source model is read from `WORK/DATA-NETWORK/source.keras`, such as that of
`efficiency.py`, or trained there.
Every finished part is kept under `--work`, and a later call goes on from
there. Writes `benchmarks/results/methods.json`, its tables as `methods.md` and
the section `methods` of `benchmarks/results/summary.json`.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import keras
import numpy as np
from common import RESULTS
from common import machine
from common import part
from common import update_summary
from common import write_result
from networks import WIDTHS
from networks import untrained

from kmod.composition.joint_scores import fit_scores
from kmod.data.load import load_data
from kmod.masks.modular_model import ModularModel
from kmod.masks.overlap import class_overlap
from kmod.masks.recipe import DEFAULT
from kmod.training.cnnsplitter import SearchOptions
from kmod.training.cnnsplitter import modularize_by_search
from kmod.training.cnnsplitter.candidates import Candidates
from kmod.training.cnnsplitter.recovery import recover
from kmod.training.gradsplitter import modularize
from kmod.zoo.train import train_source

NETWORKS = tuple(WIDTHS)
DATA = ("cifar10", "fashion_mnist")
METHODS = ("gradsplitter", "cnnsplitter", "importance", "random")
MASK_FROM = {
    "simcnn": "conv_8",
    "rescnn": "conv_6",
    "incecnn": "conv_block_1_5x5",
}
SOURCE_EPOCHS = {"cifar10": 12, "fashion_mnist": 4}
SOURCE_IMAGES = {"cifar10": 45000, "fashion_mnist": 15000}
GRADIENT_TARGET = 0.45
SEARCH_TARGET = 0.57
TRAIN_IMAGES = 15000
TRAIN_EPOCHS = 3
VALIDATION_IMAGES = 2000
TEST_IMAGES = 5000
SEARCH = SearchOptions(
    retention_target=SEARCH_TARGET,
    images=1000,
    population=16,
    generations=6,
    patience=6,
)
RACE_CANDIDATES = 64
RACE_IMAGES = 512
RACE_TURNS = 3
BARS = {
    "cnnsplitter_loss": 2.89,
    "cnnsplitter_retention": 0.57,
    "fewer_kernels": 0.1988,
    "evaluation_speed": 3.0,
}


def main():
    args = parse_arguments()
    cells = []
    data_sets = {name: load_data(name, args.data_dir) for name in args.data}
    for network in args.networks:
        for name, data in data_sets.items():
            data = dataclasses.replace(
                data, test=data.test.take(np.arange(TEST_IMAGES))
            )
            folder = args.work / f"{name}-{network}"
            cells += measure(args, data, network, folder)
            finish(args, cells)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("methods-work"))
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS)
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def measure(args, data, network, folder):
    """Measures all methods on one source model."""
    if not (folder / "source.keras").exists():
        part(folder / "source.json", train, args, data, network, folder)
    source = keras.models.load_model(folder / "source.keras")
    before = part(folder / "before.json", test_source, data, source)
    facts = {
        "data": data.name,
        "network": network,
        "seed": args.seed,
        "mask_from": MASK_FROM[network],
        "source_accuracy": before["accuracy"],
    }
    part(folder / "race.json", race, args, data, source, network)
    cells = []
    for method in METHODS:
        path = folder / f"{method}.json"
        figures = part(path, run, args, data, source, network, method, folder)
        losses = {
            f"accuracy_loss{kind}": 100
            * (before["accuracy"] - figures[f"accuracy{kind}"])
            for kind in ("", "_own", "_trained")
        }
        cells.append({**facts, "method": method, **figures, **losses})
        print(cells[-1], flush=True)
    return cells


def train(args, data, network, folder):
    keras.utils.set_random_seed(args.seed)
    source = untrained(network, data)
    few = np.arange(min(SOURCE_IMAGES[data.name], len(data.train)))
    train_source(
        source,
        dataclasses.replace(data, train=data.train.take(few)),
        SOURCE_EPOCHS[data.name],
        batch_size=128,
        learning_rate=0.1,
        seed=args.seed,
        augment=data.name == "cifar10",
        verbose=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    source.save(folder / "source.keras")


def test_source(data, source):
    return {"accuracy": accuracy(source, data.test)}


def some(args, images, count):
    order = np.random.default_rng(args.seed).permutation(len(images))
    few = images.take(order[:count])
    return few.images, few.labels


def run(args, data, source, network, method, folder):
    """Finds modules by one method; returns figures of them."""
    train = some(args, data.train, TRAIN_IMAGES)
    validation = some(args, data.validation, VALIDATION_IMAGES)
    options = {
        "mask_from": MASK_FROM[network],
        "class_names": data.class_names,
        "seed": args.seed,
        "verbose": 2,
    }
    start = time.perf_counter(), time.process_time()
    if method == "gradsplitter":
        modular = modularize(
            source,
            train,
            validation,
            recipe=dataclasses.replace(
                DEFAULT, retention_target=GRADIENT_TARGET
            ),
            epochs=TRAIN_EPOCHS,
            accuracy_budget=1.0,  # The last epoch, which has fewest kernels.
            **options,
        )
    else:
        like = None
        if method != "cnnsplitter":
            like = np.load(folder / "cnnsplitter.npy", allow_pickle=False)
        modular = modularize_by_search(
            source,
            train,
            validation,
            method=method,
            options=SEARCH,
            like=like,
            head_epochs=0,
            **options,
        )
    figures = {
        "seconds": time.perf_counter() - start[0],
        "processor_seconds": time.process_time() - start[1],
        **figures_of(modular),
        **composed_accuracy(modular, validation, data.test),
    }
    np.save(folder / f"{method}.npy", modular.kernel_masks)
    if method == "gradsplitter":
        return {**figures, "accuracy_trained": figures["accuracy"]}
    recover(modular, train, validation, TRAIN_EPOCHS, verbose=2)
    trained = composed_accuracy(modular, validation, data.test)
    return {**figures, "accuracy_trained": trained["accuracy"]}


def figures_of(modular):
    masks = modular.kernel_masks
    overlap = class_overlap(masks)
    others = ~np.eye(len(masks), dtype=bool)
    return {
        "retention_rate": modular.retention_rate,
        "macs_ratio": float(
            modular.macs.of_composition(modular.masks.mask.value)
        ),
        "jaccard_distance": float(1 - overlap[others].mean()),
        "kept_by_layer": {
            layer: float(masks[:, modular.kernels.ids_of(layer)].mean())
            for layer in modular.kernels.layers
        },
    }


def composed_accuracy(modular, validation, test):
    """Accuracy with a joint layer and with each module's own calibration."""
    images, labels = validation
    own = modular.class_log_odds(test.images)
    weights, bias = fit_scores(modular.class_log_odds(images), labels)
    return {
        key: float(np.mean(scores.argmax(1) == test.labels))
        for key, scores in (
            ("accuracy", own @ weights + bias),
            ("accuracy_own", own),
        )
    }


def race(args, data, source, network):
    """Times a generation's evaluation against one candidate at a time.

    Both take turns, and the best turn of each counts, since other work on the
    machine slows either at random.
    """
    modular = ModularModel(source, mask_from=MASK_FROM[network])
    images, _ = some(args, data.validation, RACE_IMAGES)
    rng = np.random.default_rng(args.seed)
    shape = (RACE_CANDIDATES, modular.kernels.num_groups)
    masks = np.maximum(rng.random(shape) < 0.5, ~modular.placement.may_go)
    masks = masks.astype("float32")
    classes = np.arange(RACE_CANDIDATES) % modular.num_classes
    together, alone = Candidates(modular, images), OneByOne(modular, images)
    few = RACE_CANDIDATES // 8
    together.score(masks, classes)  # The first calls compile.
    alone.score(masks[:1], classes[:1])
    turns = [
        (
            candidate_images_per_second(together, masks, classes),
            candidate_images_per_second(alone, masks[:few], classes[:few]),
        )
        for _ in range(RACE_TURNS)
    ]
    best = np.max(turns, axis=0)
    return {
        "turns": turns,
        "together": best[0],
        "one_by_one": best[1],
        "speed_up": best[0] / best[1],
    }


class OneByOne(Candidates):
    """One candidate at a time through the whole masked model."""

    def __init__(self, modular, images):
        super().__init__(modular, images[:1], num_rows=1)
        self.images, self.num_images = images, len(images)

    def _score_rows(self, masks, classes):
        self.network.mask.assign(masks)
        self.network.classes.assign(classes)
        return self.network.predict(self.images, batch_size=256, verbose=0).T


def candidate_images_per_second(candidates, masks, classes):
    start = time.perf_counter()
    candidates.score(masks, classes)
    seconds = time.perf_counter() - start
    return len(masks) * candidates.num_images / seconds


def accuracy(model, images, batch_size=256):
    scores = model.predict(images.images, batch_size=batch_size, verbose=0)
    return float(np.mean(scores.argmax(1) == images.labels))


def finish(args, cells):
    """Writes the results so far and checks the bars."""
    means = {method: means_of(cells, method) for method in METHODS}
    races = [
        part(args.work / f"{c['data']}-{c['network']}" / "race.json", dict)
        for c in cells
        if c["method"] == "cnnsplitter"
    ]
    write_result(
        "methods",
        {
            "command": "python benchmarks/methods.py --data-dir DIR",
            "machine": machine(),
            "settings": {
                "seed": args.seed,
                "train_images": TRAIN_IMAGES,
                "train_epochs": TRAIN_EPOCHS,
                "validation_images": VALIDATION_IMAGES,
                "test_images": TEST_IMAGES,
                "gradsplitter_target": GRADIENT_TARGET,
                "search": SEARCH.as_dict(),
            },
            "bars": bars(cells, means, races),
            "means": means,
            "cells": cells,
            "evaluation_speed": races,
        },
    )
    (RESULTS / "methods.md").write_text(tables(means, cells))
    update_summary("methods", means)


def tables(means, cells):
    """Returns the means and all cells as Markdown tables."""
    columns = {
        "accuracy_loss": ("loss, points", "{:.2f}"),
        "accuracy_loss_own": ("own calibration", "{:.2f}"),
        "accuracy_loss_trained": ("heads trained", "{:.2f}"),
        "retention_rate": ("kernels kept", "{:.3f}"),
        "macs_ratio": ("MACs ÷ source", "{:.2f}"),
        "jaccard_distance": ("Jaccard distance", "{:.2f}"),
        "seconds": ("seconds", "{:.0f}"),
        "processor_seconds": ("of processors", "{:.0f}"),
    }
    head = [title for title, _ in columns.values()]
    rows = [("mean", method, means[method]) for method in METHODS]
    rows += [(f"{c['network']}, {c['data']}", c["method"], c) for c in cells]
    lines = [["setting", "method", *head], ["---"] * (2 + len(head))]
    lines += [
        [where, method, *(f.format(row[k]) for k, (_, f) in columns.items())]
        for where, method, row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def means_of(cells, method):
    own = [cell for cell in cells if cell["method"] == method]
    names = (
        "accuracy_loss",
        "accuracy_loss_own",
        "accuracy_loss_trained",
        "retention_rate",
        "macs_ratio",
        "jaccard_distance",
        "seconds",
        "processor_seconds",
    )
    return {name: float(np.mean([c[name] for c in own])) for name in names}


def bars(cells, means, races):
    """Returns each bar with what was measured and whether it holds."""
    gradient, search = means["gradsplitter"], means["cnnsplitter"]
    losses = {
        method: [c["accuracy_loss"] for c in cells if c["method"] == method]
        for method in METHODS
    }
    fewer = 1 - gradient["retention_rate"] / search["retention_rate"]
    speed = min(row["speed_up"] for row in races)
    return {
        "cnnsplitter_loss": {
            "value": search["accuracy_loss"],
            "bar": BARS["cnnsplitter_loss"],
            "holds": search["accuracy_loss"] <= BARS["cnnsplitter_loss"],
        },
        "cnnsplitter_retention": {
            "value": search["retention_rate"],
            "bar": BARS["cnnsplitter_retention"],
            "holds": search["retention_rate"] <= BARS["cnnsplitter_retention"],
        },
        "controls_lose_more": {
            method: {
                "settings": sum(
                    control > own
                    for control, own in zip(
                        losses[method], losses["cnnsplitter"], strict=True
                    )
                ),
                "of": len(losses[method]),
                "mean_difference": float(
                    np.mean(losses[method]) - np.mean(losses["cnnsplitter"])
                ),
            }
            for method in ("importance", "random")
        },
        "gradsplitter_fewer_kernels": {
            "relative": fewer,
            "points": 100
            * (search["retention_rate"] - gradient["retention_rate"]),
            "loss_difference": gradient["accuracy_loss"]
            - search["accuracy_loss"],
            "bar": BARS["fewer_kernels"],
            "holds": fewer >= BARS["fewer_kernels"]
            and gradient["accuracy_loss"] <= search["accuracy_loss"],
        },
        "evaluation_speed": {
            "value": speed,
            "bar": BARS["evaluation_speed"],
            "holds": speed >= BARS["evaluation_speed"],
        },
    }


if __name__ == "__main__":
    main()
