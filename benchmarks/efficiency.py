"""Measures what small modules cost, to find and to use.

    python benchmarks/efficiency.py --data-dir DIR [--networks simcnn ...]

For each network on CIFAR-10, the small twins and SimCNN at a quarter of its
width (`--source` takes the source model of `kmod demo --data cifar10`): trains
the source model, finds masks, cuts the modules, refines them where the cell
says so, composes all ten, and compares accuracy, multiply-accumulates, latency
and time with the source model. The cells are `composed` (a late branch,
cheapest to run together), `smallest` (fewest kernels, refined) and `frozen` (no
refinement). Times are compared with steps of the source model's training and of
the paper recipe, measured in the same call and multiplied by all their steps.
Every finished part is kept under `--work`, and a later call goes on from there.
Settings were chosen on validation images; the figures are of test images.
Writes `benchmarks/results/efficiency.json` and the section `efficiency` of
`benchmarks/results/summary.json`.
"""

import argparse
import dataclasses
import shutil
import time
from pathlib import Path

import keras
import numpy as np
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result

from kmod.composition.composer import compose
from kmod.data.load import load_data
from kmod.evaluation.latency import measure_latency
from kmod.evaluation.sizes import model_sizes
from kmod.masks.modular_model import ModularModel
from kmod.masks.recipe import DEFAULT
from kmod.masks.recipe import PAPER
from kmod.refinement.refine import refine
from kmod.spec.writer import write_spec
from kmod.store.decompose import decompose
from kmod.store.module_store import load_store
from kmod.training.gradsplitter import modularize
from kmod.zoo.build import build
from kmod.zoo.train import train_source

RESULT = "efficiency"
SMALL = {"epochs": 15, "small": True, "width": 1.0}
NETWORKS = {
    "simcnn": SMALL,
    "rescnn": SMALL,
    "incecnn": SMALL,
    "simcnn_quarter": {"epochs": 12, "small": False, "width": 0.25},
}
SOURCE_BATCH_SIZE = 128
SEARCH_IMAGES = 15000
TIMED_STEPS = 12
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Cell:
    """How the modules of one cell are found.

    Attributes:
        mask_from: First layer whose kernels may go.
        retention_target: Share of kernels to come down to.
        macs_target: Limit of the composition's multiply-accumulates, as a
            multiple of the source model's.
        search_epochs: Epochs of the search, on `SEARCH_IMAGES` images.
        refine_epochs: Epochs of refinement on all images, 0 for none.
        mirror: Whether refinement also sees every image mirrored.
    """

    mask_from: str | None
    retention_target: float = 1.0
    macs_target: float | None = None
    search_epochs: int = 2
    refine_epochs: int = 0
    mirror: bool = False


CELLS = {
    "simcnn": {
        "composed": Cell("hidden_1", macs_target=0.999, refine_epochs=5),
        "frozen": Cell("conv_3", 0.40, search_epochs=3),
        "smallest": Cell("conv_3", 0.25, refine_epochs=3),
    },
    "rescnn": {
        "composed": Cell(
            "conv_7", macs_target=0.995, refine_epochs=4, mirror=True
        ),
        "frozen": Cell("conv_3", 0.40, search_epochs=3),
        "smallest": Cell("conv_3", 0.25, refine_epochs=3),
    },
    "simcnn_quarter": {
        "composed": Cell("hidden_1", macs_target=0.999, refine_epochs=4),
        "frozen": Cell("conv_8", 0.22, search_epochs=4),
        "smallest": Cell("conv_8", 0.18, search_epochs=3, refine_epochs=2),
    },
    "incecnn": {
        "composed": Cell(
            "conv_block_2_1x1", macs_target=0.995, refine_epochs=4
        ),
        "frozen": Cell("conv_block_1_5x5", 0.40, search_epochs=3),
        "smallest": Cell("conv_block_1_5x5", 0.25, refine_epochs=3),
    },
}
FIGURES = (
    "accuracy_loss",
    "retention_rate",
    "macs_ratio",
    "time_ratio_source",
    "time_ratio_paper",
)
LATENCIES = ("latency_ratio_1", "latency_ratio_64")


def main():
    args = parse_arguments()
    data = load_data("cifar10", args.data_dir)
    results = read_result(RESULT)
    results["command"] = "python benchmarks/efficiency.py --data-dir DIR"
    results["machine"] = machine()
    results["seed"] = args.seed
    networks = results.setdefault("networks", {})
    for name in args.networks:
        for kind in args.cells:
            figures = measure(args, data, name, kind)
            networks.setdefault(name, {})[kind] = figures
            write_result(RESULT, results)
            names = FIGURES + (LATENCIES if kind == "composed" else ())
            short = {key: figures[key] for key in names}
            update_summary(RESULT, {name: {kind: short}})
            print(name, kind, short, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("efficiency-work"))
    parser.add_argument(
        "--networks", nargs="+", choices=CELLS, default=list(CELLS)
    )
    kinds = ("composed", "frozen", "smallest")
    parser.add_argument("--cells", nargs="+", choices=kinds, default=kinds)
    parser.add_argument(
        "--source", type=Path, help="trained source model of one network"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def measure(args, data, name, kind):
    folder = args.work / name
    cell = CELLS[name][kind]
    part(folder / "source.json", train, args, data, name, folder)
    source = keras.models.load_model(folder / "source.keras")
    folder = folder / kind
    times = part(folder / "times.json", time_steps, args, data, source, name)
    found = part(
        folder / "search.json", search, args, data, source, cell, folder
    )
    seconds, store = found["seconds"], folder / "cut"
    if cell.refine_epochs:
        better = part(
            folder / "refine.json", improve, args, data, source, cell, folder
        )
        seconds, store = seconds + better["seconds"], folder / "refined"
    before = accuracy(source, data.test)
    figures = composed_figures(store, source, data, kind == "composed")
    return {
        "cell": dataclasses.asdict(cell),
        "seconds": {"cell": seconds, **times},
        "source_accuracy": before,
        **figures,
        "accuracy_loss": round(100 * (before - figures["accuracy"]), 6),
        "time_ratio_source": seconds / times["source"],
        "time_ratio_paper": seconds / times["paper"],
    }


def untrained(name):
    size = {key: NETWORKS[name][key] for key in ("small", "width")}
    return build(name.partition("_")[0], (32, 32, 3), 10, **size)


def train(args, data, name, folder):
    if args.source is not None:
        shutil.copy(args.source, folder / "source.keras")
        return
    keras.utils.set_random_seed(args.seed)
    source = untrained(name)
    train_source(
        source,
        data,
        NETWORKS[name]["epochs"],
        batch_size=SOURCE_BATCH_SIZE,
        learning_rate=0.1,
        seed=args.seed,
        augment=True,
        verbose=2,
    )
    source.save(folder / "source.keras")


def search(args, data, source, cell, folder):
    some = np.random.default_rng(args.seed).permutation(len(data.train))
    few = data.train.take(some[:SEARCH_IMAGES])
    validation = (data.validation.images, data.validation.labels)
    modular = modularize(
        source,
        (few.images, few.labels),
        validation,
        class_names=data.class_names,
        recipe=dataclasses.replace(
            DEFAULT,
            retention_target=cell.retention_target,
            macs_target=cell.macs_target,
        ),
        mask_from=cell.mask_from,
        epochs=cell.search_epochs,
        batch_size=BATCH_SIZE,
        accuracy_budget=1.0,  # The target counts; the loss is reported.
        seed=args.seed,
        verbose=2,
    )
    decompose(modular, folder / "cut", data=validation, overwrite=True)


def improve(args, data, source, cell, folder):
    images, labels = data.train.images, data.train.labels
    if cell.mirror:
        images = np.concatenate([images, images[:, :, ::-1]])
        labels = np.concatenate([labels, labels])
    refine(
        load_store(folder / "cut"),
        folder / "refined",
        source,
        (images, labels),
        (data.validation.images, data.validation.labels),
        epochs=cell.refine_epochs,
        batch_size=BATCH_SIZE,
        seed=args.seed,
        verbose=2,
        overwrite=True,
    )


def time_steps(args, data, source, name):
    """Times steps of two trainings and multiplies by all their steps.

    Returns:
        Dict of the seconds of `source`, the source model's training, and of
        `paper`, the 145 epochs of the published recipe.
    """
    images = len(data.train)
    twin = untrained(name)
    twin.compile(
        keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy"
    )
    source_steps = NETWORKS[name]["epochs"] * -(-images // SOURCE_BATCH_SIZE)
    modular = ModularModel(source, recipe=PAPER)
    modular.compile()
    paper_steps = PAPER.epochs * -(-images // BATCH_SIZE)
    return {
        "source": source_steps * step_seconds(twin, data, SOURCE_BATCH_SIZE),
        "paper": paper_steps * step_seconds(modular, data, BATCH_SIZE),
    }


def step_seconds(model, data, batch_size):
    few = data.train.take(np.arange(TIMED_STEPS * batch_size))
    options = {"batch_size": batch_size, "epochs": 1, "verbose": 0}
    times = []
    for _ in range(4):  # The first call compiles.
        start = time.perf_counter()
        model.fit(few.images, few.labels, **options)
        times.append((time.perf_counter() - start) / TIMED_STEPS)
    return float(np.median(times[1:]))


def composed_figures(path, source, data, is_timed):
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
        **(latency_ratios(composed, source) if is_timed else {}),
        "kept_by_layer": {
            layer: float(np.mean([len(i.kept_kernels[layer]) for i in infos]))
            for layer in infos[0].kept_kernels
        },
    }


def latency_ratios(model, source):
    return {
        f"latency_ratio_{size}": latency_ratio(model, source, size)
        for size in (1, 64)
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


if __name__ == "__main__":
    main()
