"""Measures what small modules cost, to find and to use.

    python benchmarks/efficiency.py --data-dir DIR [--networks simcnn ...]

For each small twin on CIFAR-10: trains the source model, finds masks behind a
shared stem, cuts the modules, refines them, composes all ten, and compares
accuracy, multiply-accumulates, latency and time with the source model. The
paper recipe is timed for a few steps and multiplied by its 145 epochs. Every
finished part is kept under `--work`, and a later call goes on from there.
Settings were chosen on validation images; the figures are of test images.
Writes `benchmarks/results/efficiency.json`.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import keras
import numpy as np

from kmod.composition.composer import compose
from kmod.data.load import load_data
from kmod.evaluation.latency import measure_latency
from kmod.evaluation.sizes import model_sizes
from kmod.files import atomic_write
from kmod.masks.modular_model import ModularModel
from kmod.masks.recipe import DEFAULT
from kmod.masks.recipe import PAPER
from kmod.refinement.refine import refine
from kmod.spec.writer import write_spec
from kmod.store.decompose import decompose
from kmod.store.module_store import load_store
from kmod.training.gradsplitter import modularize
from kmod.zoo.augmented_images import AugmentedImages
from kmod.zoo.build import build
from kmod.zoo.train import train_source

RESULTS = Path(__file__).parent / "results" / "efficiency.json"
SOURCE_EPOCHS = 15
SEARCH_EPOCHS = 3
SEARCH_IMAGES = 15000
REFINE_EPOCHS = 5
PAPER_STEPS = 12
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Branch:
    """Where modules branch off the stem, and what they keep."""

    mask_from: str
    retention_target: float


BRANCHES = {
    "simcnn": Branch("conv_5", 0.43),
    "rescnn": Branch("conv_6", 0.62),
    "incecnn": Branch("conv_block_2_1x1", 0.72),
}


def main():
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    data = load_data("cifar10", args.data_dir)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["command"] = "python benchmarks/efficiency.py --data-dir DIR"
    results["machine"] = machine()
    results["seed"] = args.seed
    networks = results.setdefault("networks", {})
    for name in args.networks:
        networks[name] = measure(args, data, name)
        atomic_write(RESULTS, json.dumps(results, indent=1) + "\n")
        print(json.dumps(networks[name], indent=1), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("efficiency-work"))
    parser.add_argument(
        "--networks", nargs="+", choices=sorted(BRANCHES), default=["simcnn"]
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def measure(args, data, name):
    folder = args.work / name
    folder.mkdir(exist_ok=True)
    trained = part(folder / "source.json", train, args, data, name, folder)
    source = keras.models.load_model(folder / "source.keras")
    found = part(
        folder / "search.json", search, args, data, source, name, folder
    )
    better = part(folder / "refine.json", improve, args, data, source, folder)
    paper = part(folder / "paper.json", time_paper, data, source)
    seconds = found["seconds"] + better["seconds"]
    before = accuracy(source, data.test)
    cut, refined = (
        composed_figures(folder / store, source, data)
        for store in ("cut", "refined")
    )
    return {
        "branch": dataclasses.asdict(BRANCHES[name]),
        "seconds": {
            "source": trained["seconds"],
            "search": found["seconds"],
            "refine": better["seconds"],
            "paper_145_epochs": paper["seconds"],
        },
        "source_accuracy": before,
        "cut": {
            **cut,
            "accuracy_loss": 100 * (before - cut["accuracy"]),
        },
        "composed": {
            **refined,
            "accuracy_loss": 100 * (before - refined["accuracy"]),
            "time_ratio_source": seconds / trained["seconds"],
            "time_ratio_paper": seconds / paper["seconds"],
        },
    }


def part(path, function, *args):
    """Runs one part and writes its figures, or reads an earlier call's."""
    if not path.exists():
        start = time.perf_counter()
        figures = function(*args) or {}
        figures.setdefault("seconds", time.perf_counter() - start)
        atomic_write(path, json.dumps(figures))
    return json.loads(path.read_text())


def train(args, data, name, folder):
    keras.utils.set_random_seed(args.seed)
    source = build(name, (32, 32, 3), 10)
    train_source(
        source,
        data,
        SOURCE_EPOCHS,
        batch_size=128,
        learning_rate=0.1,
        seed=args.seed,
        augment=True,
        verbose=2,
    )
    source.save(folder / "source.keras")


def search(args, data, source, name, folder):
    some = np.random.default_rng(args.seed).permutation(len(data.train))
    few = data.train.take(some[:SEARCH_IMAGES])
    validation = (data.validation.images, data.validation.labels)
    modular = modularize(
        source,
        (few.images, few.labels),
        validation,
        class_names=data.class_names,
        recipe=dataclasses.replace(
            DEFAULT, retention_target=BRANCHES[name].retention_target
        ),
        mask_from=BRANCHES[name].mask_from,
        epochs=SEARCH_EPOCHS,
        batch_size=BATCH_SIZE,
        accuracy_budget=1.0,  # Refinement makes up for what is lost here.
        seed=args.seed,
        verbose=2,
    )
    decompose(modular, folder / "cut", data=validation, overwrite=True)


def improve(args, data, source, folder):
    refine(
        load_store(folder / "cut"),
        folder / "refined",
        source,
        AugmentedImages(data.train, BATCH_SIZE, args.seed),
        (data.validation.images, data.validation.labels),
        epochs=REFINE_EPOCHS,
        batch_size=BATCH_SIZE,
        seed=args.seed,
        verbose=2,
        overwrite=True,
    )


def time_paper(data, source):
    """Times steps of the published recipe; returns seconds of 145 epochs."""
    modular = ModularModel(source, recipe=PAPER)
    modular.compile()
    few = data.train.take(np.arange(PAPER_STEPS * BATCH_SIZE))
    times = []
    for _ in range(3):  # The first call compiles.
        start = time.perf_counter()
        modular.fit(
            few.images, few.labels, batch_size=BATCH_SIZE, epochs=1, verbose=0
        )
        times.append((time.perf_counter() - start) / PAPER_STEPS)
    steps = -(-len(data.train) // BATCH_SIZE)
    return {
        "seconds": min(times[1:]) * steps * PAPER.epochs,
        "seconds_per_step": min(times[1:]),
    }


def composed_figures(path, source, data):
    store = load_store(path)
    spec = path.with_suffix(".yaml")
    write_spec(
        {
            "version": 1,
            "name": "all-classes",
            "stores": {"source": {"path": path}},
            "classes": [
                {"name": name, "module": {"store": "source", "class": name}}
                for name in store.class_names
            ],
        },
        spec,
    )
    composed = compose(spec)
    infos = [store.info(name) for name in store.class_names]
    return {
        "accuracy": accuracy(composed, data.test),
        "retention_rate": float(np.mean([i.retention_rate for i in infos])),
        "macs_ratio": model_sizes(composed).macs / model_sizes(source).macs,
        "latency_ratio_1": latency_ratio(composed, source, 1),
        "latency_ratio_64": latency_ratio(composed, source, 64),
        "kept_by_layer": {
            layer: float(np.mean([len(i.kept_kernels[layer]) for i in infos]))
            for layer in infos[0].kept_kernels
        },
    }


def latency_ratio(model, source, batch_size):
    pairs = [
        measure_latency(model, batch_size) / measure_latency(source, batch_size)
        for _ in range(3)
    ]
    return float(np.median(pairs))


def accuracy(model, images):
    scores = model.predict(images.images, batch_size=256, verbose=0)
    return float(np.mean(scores.argmax(1) == images.labels))


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(x.split(":")[1].strip() for x in lines if "model name" in x)
    return {
        "platform": platform.platform(),
        "processor": name,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
