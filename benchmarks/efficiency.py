"""Measures what small modules cost, to find and to use.

    python benchmarks/efficiency.py --data-dir DIR [--networks simcnn ...]

For each network on CIFAR-10: trains the source model (`--sources` takes those
of `paper_recipe.py`, which also runs the paper's recipe on them), finds masks,
cuts the modules, refines them where the cell says so, composes all ten, and
compares accuracy, multiply-accumulates, latency, memory and time with the
source model. The cells are `composed` (a late branch, cheapest to run
together), `smallest` (fewest kernels, refined), `frozen` (few kernels, no
refinement) and, where `frozen` loses more than the paper's recipe, `close`
(no refinement, as many kernels as it takes to lose no more).

Times are compared with steps of the source model's training and of the paper
recipe, measured in the same call and multiplied by all their steps; memory is
the most that each one's process holds at a time. Every finished part is kept
under `--work`, and a later call goes on from there.
Settings were chosen on validation images and by retention rates, except that
InceCNN went from 1/8 to 3/16 of its width after test figures of its modules at
1/8, and but for the rate of InceCNN's frozen cell, which training loss decided;
its 15 epochs are between the 10 and 20 of trials on validation images. The
figures are of test images.
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
from common import accuracy
from common import in_child
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result
from networks import SOURCE_BATCH_SIZE
from networks import SOURCE_EPOCHS
from networks import WIDTHS
from networks import trained
from networks import untrained

from kmod.composition.composer import compose
from kmod.data.load import load_data
from kmod.graph.sizes import model_sizes
from kmod.metrics.latency import measure_latency
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT
from kmod.modular.recipe import PAPER
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store
from kmod.modules.refine import refine
from kmod.spec.spec_file import write_spec

RESULT = "efficiency"
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
        search_epochs: Epochs of the search.
        search_images: Images of an epoch of the search.
        refine_epochs: Epochs of refinement on all images, 0 for none.
        mirror: Whether refinement also sees every image mirrored.
        adapt_rate: Learning rate of scales, shifts and gains in the search.
    """

    mask_from: str | None
    retention_target: float = 1.0
    macs_target: float | None = None
    search_epochs: int = 2
    search_images: int = 15000
    refine_epochs: int = 0
    mirror: bool = False
    adapt_rate: float = DEFAULT.adapt_rate


CELLS = {
    "simcnn": {
        "composed": Cell("hidden_1", macs_target=0.999, refine_epochs=4),
        "frozen": Cell("conv_8", 0.22, search_epochs=4),
        "smallest": Cell("conv_8", 0.18, search_epochs=3, refine_epochs=2),
    },
    "rescnn": {
        "composed": Cell("conv_11", macs_target=0.995, refine_epochs=4),
        "frozen": Cell("conv_6", 0.398, search_epochs=10, search_images=45000),
        "close": Cell("conv_6", 0.70, search_epochs=4),
        "smallest": Cell("conv_6", 0.247, search_epochs=4, refine_epochs=5),
    },
    "incecnn": {
        "composed": Cell(
            "conv_block_3_1x1", macs_target=0.995, refine_epochs=4
        ),
        "frozen": Cell(
            "conv_3",
            0.3985,
            search_epochs=15,
            search_images=45000,
            adapt_rate=0.01,
        ),
        "close": Cell("conv_block_1_5x5", 0.70, search_epochs=4),
        "smallest": Cell(
            "conv_block_1_5x5", 0.247, search_epochs=4, refine_epochs=5
        ),
    },
}
FIGURES = (
    "width",
    "accuracy_loss",
    "retention_rate",
    "macs_ratio",
    "time_ratio_source",
    "time_ratio_paper",
    "memory_ratio_paper",
)
LATENCIES = ("latency_ratio_1", "latency_ratio_64")


def main():
    args = parse_arguments()
    data = load_data("cifar10", args.data_dir)
    results = read_result(RESULT)
    results["command"] = "python benchmarks/efficiency.py --data-dir DIR"
    results["seed"] = args.seed
    networks = results.setdefault("networks", {})
    for name in args.networks:
        for kind in [kind for kind in args.cells if kind in CELLS[name]]:
            figures = {"machine": machine(), **measure(args, data, name, kind)}
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
    kinds = ("composed", "frozen", "close", "smallest")
    parser.add_argument("--cells", nargs="+", choices=kinds, default=kinds)
    parser.add_argument(
        "--sources", type=Path, help="what paper_recipe.py left in its --work"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def measure(args, data, name, kind):
    folder = args.work / name
    cell = CELLS[name][kind]
    part(folder / "source.json", train, args, data, name)
    steps = {
        recipe.__name__: part(
            folder / f"{recipe.__name__}.json", in_child, recipe, args, name
        )
        for recipe in (source_steps, paper_steps)
    }
    runs = {"search": search}
    if cell.refine_epochs:
        runs["refine"] = improve
    own = {
        step: part(
            folder / kind / f"{step}.json", in_child, run, args, name, kind
        )
        for step, run in runs.items()
    }
    store = folder / kind / ("refined" if cell.refine_epochs else "cut")
    source = source_of(args, name)
    before = accuracy(source, data.test)
    figures = composed_figures(store, source, data, kind == "composed")
    seconds = sum(each["seconds"] for each in own.values())
    peak = max(each["peak_mib"] for each in own.values())
    paper = steps["paper_steps"]
    return {
        "width": WIDTHS[name],
        "cell": dataclasses.asdict(cell),
        "parts": own | steps,
        "source_accuracy": before,
        **figures,
        "accuracy_loss": round(100 * (before - figures["accuracy"]), 6),
        "time_ratio_source": seconds / steps["source_steps"]["seconds"],
        "time_ratio_paper": seconds / paper["seconds"],
        "memory_ratio_paper": peak / paper["peak_mib"],
    }


def source_of(args, name):
    # Compiled on an accelerator it would run under XLA, unlike what it is
    # compared with.
    path = args.work / name / "source.keras"
    return keras.models.load_model(path, compile=False)


def train(args, data, name):
    path = args.work / name / "source.keras"
    if args.sources is None:
        trained(name, data, args.seed).save(path)
    else:
        shutil.copy(args.sources / name / "source.keras", path)


def search(args, name, kind):
    """Finds masks and cuts the modules; returns seconds, those of masks too."""
    data, source = load_data("cifar10", args.data_dir), source_of(args, name)
    cell = CELLS[name][kind]
    some = np.random.default_rng(args.seed).permutation(len(data.train))
    few = data.train.take(some[: cell.search_images])
    validation = (data.validation.images, data.validation.labels)
    start = time.perf_counter()
    modular = modularize(
        source,
        (few.images, few.labels),
        validation,
        class_names=data.class_names,
        recipe=dataclasses.replace(
            DEFAULT,
            retention_target=cell.retention_target,
            macs_target=cell.macs_target,
            adapt_rate=cell.adapt_rate,
        ),
        mask_from=cell.mask_from,
        epochs=cell.search_epochs,
        batch_size=BATCH_SIZE,
        accuracy_budget=1.0,  # The target counts; the loss is reported.
        seed=args.seed,
        verbose=2,
    )
    masks = time.perf_counter() - start
    out = args.work / name / kind / "cut"
    decompose(modular, out, data=validation, overwrite=True)
    return {"masks_seconds": masks, "seconds": time.perf_counter() - start}


def improve(args, name, kind):
    """Refines the cut modules; returns seconds."""
    data, source = load_data("cifar10", args.data_dir), source_of(args, name)
    cell, folder = CELLS[name][kind], args.work / name / kind
    start = time.perf_counter()
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
    return {"seconds": time.perf_counter() - start}


def source_steps(args, name):
    """Returns the seconds of the source model's training, from some steps."""
    data = load_data("cifar10", args.data_dir)
    twin = untrained(name, data)
    twin.compile(
        keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy"
    )
    each = step_seconds(twin, data, SOURCE_BATCH_SIZE)
    steps = -(-len(data.train) // SOURCE_BATCH_SIZE)
    return {"seconds": SOURCE_EPOCHS * steps * each}


def paper_steps(args, name):
    """Returns the seconds of the published 145 epochs, from some steps."""
    data, source = load_data("cifar10", args.data_dir), source_of(args, name)
    modular = ModularModel(source, recipe=PAPER)
    modular.compile()
    steps = PAPER.epochs * -(-len(data.train) // BATCH_SIZE)
    return {"seconds": steps * step_seconds(modular, data, BATCH_SIZE)}


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
        "kept_by_any_class": {
            layer: len({k for i in infos for k in i.kept_kernels[layer]})
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


if __name__ == "__main__":
    main()
