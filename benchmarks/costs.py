"""Fits what the main steps cost, and predicts them for many sources and hosts.

    taskset -c 1 python benchmarks/costs.py [--work DIR]

Every cell is measured in a process of its own, on untrained SimCNNs of several
widths, image sizes and numbers of classes: costs do not depend on what a
network has learned. Times are seconds of one core (processor time, user and
system), which other programs change less than wall-clock times. A cost is a sum
of features times what each takes, no less than 0, by least squares of relative
errors. One cell of every step is held out, of more modules than the others or
between them, and compared with what they predict. `predict` works out what many
sources take on many hosts.

A later call goes on from the cells that are done. Writes
`benchmarks/results/costs.json` and `costs` in the section `scale` of
`benchmarks/results/summary.json`.
"""

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from common import in_child
from common import machine
from common import part
from common import peak_mib
from common import read_result
from common import update_summary
from common import write_result
from planning import write_stores

from kmod.composition.composer import compose
from kmod.data.streaming import predict as run_model
from kmod.graph.sizes import model_sizes
from kmod.jobs.tensorflow_settings import use_fast_kernels
from kmod.modular.losses import ModuleLoss
from kmod.modular.mask_schedule import steps_apart
from kmod.modular.modular_model import ModularModel
from kmod.modular.optimizer import adam
from kmod.modular.optimizer import build_ahead
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store
from kmod.modules.refine import JointModel
from kmod.spec.spec_file import write_spec
from kmod.zoo.build import build

RANGE = (0.0, 255.0)
RETENTION = 0.4
BATCH_SIZE = 32
RUNS = 3  # The first one of a process is left out.
STEPS, SORTS = 4, 4  # Of an epoch of the search; what is timed, at least.
LONG = 10_000  # Steps of a search.
NETWORKS = (  # Width, image size, classes.
    (0.125, 32, 10),
    (0.25, 32, 10),
    (0.125, 64, 10),
    (0.25, 48, 50),
    (0.125, 32, 300),
    (0.25, 32, 300),
)
STORES = ((0.125, 32, 5), (0.125, 32, 12), (0.25, 32, 5), (0.25, 32, 12))
COPIES = ((1, 10), (1, 300), (1, 1000), (1, 3000))  # Stores, classes.
PLANS = ((1, 100), (1, 1000), (30, 1000), (100, 300), (1, 3000))
# The features that a step's cost is a sum of, its cells and the one held out.
STEPS_OF = {
    "search": (
        ("gmacs", "mega_activations", "mega_scores", "mega_sorted"),
        (*NETWORKS, (0.25, 32, 2000), (0.125, 32, 3000)),
        (0.1875, 48, 1000),
    ),
    "validate": (
        ("gmacs", "mega_activations"),
        NETWORKS,
        (0.1875, 48, 200),
    ),
    "store": (("modules", "mega_parameters"), STORES, (0.1875, 32, 18)),
    "compose": (("modules", "mega_parameters"), STORES, (0.1875, 32, 18)),
    "refine": (("layers", "gmacs"), STORES, (0.1875, 32, 18)),
    "open": (("modules",), COPIES, (1, 2000)),
    "plan": (("classes", "stores"), PLANS, (50, 2000)),
}
# What is fitted of a step beside its seconds.
OTHERS = {
    "search": {"mib": ("mega_scores", "mega_activations")},
    "store": {"mib": ("modules", "mega_parameters")},
    "refine": {"start_seconds": ("layers",)},
    "open": {"mib": ("modules",)},
}
# A source of the prediction: a SimCNN a quarter as wide as the paper's.
WIDTH, SIZE = 0.25, 32
TRAIN, VALIDATION, EPOCHS = 50000, 5000, 4
CLASSES = (10, 100, 1000)
SOURCES = 1000
NODES = (1, 10, 100, 1000)
ROWS = 3  # Modules that see an image in a step.
STEM = 0.5  # Of the MACs; where modules are to be used together.


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("costs-work"))
    work = parser.parse_args().work.absolute()
    use_fast_kernels()  # As the commands do.
    models, cells = {}, {}
    for step, (features, fitted, held_out) in STEPS_OF.items():
        for cell in (*fitted, held_out):
            name = "-".join([step, *map(str, cell)])
            path = work / f"{name}.json"
            found = part(path, in_child, MEASURES[step], work, *cell)
            cells[name] = found
            print(name, found, flush=True)
        kinds = {"seconds": features, **OTHERS.get(step, {})}
        runs = [
            cells["-".join([step, *map(str, cell)])]
            for cell in (*fitted, held_out)
        ]
        models[step] = {
            kind: fitted_to(runs, names, kind) for kind, names in kinds.items()
        }
    prediction = predict(models, part(work / "shape.json", in_child, shape))
    figures = {"models": models, "prediction": prediction}
    facts = {
        "command": "taskset -c 1 python benchmarks/costs.py",
        "machine": {**machine(), "load": round(os.getloadavg()[0], 1)},
        "cells": cells,
    }
    write_result("costs", {**facts, **figures})
    errors = {
        step: {kind: round(model["error"], 3) for kind, model in kinds.items()}
        for step, kinds in models.items()
    }
    update_summary("scale", {"costs": {"errors": errors, **prediction}})
    print(json.dumps({"errors": errors, **prediction}, indent=1))


def network(width: float, size: int, num_classes: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    shape = (size, size, 3)
    return build("simcnn", shape, num_classes, small=False, width=width)


def random_images(count: int, size: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.uniform(*RANGE, (count, size, size, 3)).astype("float32")


def processor_seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def median_seconds(function) -> float:
    """Returns what a call takes, the median of all but the first."""
    times = [processor_seconds(function) for _ in range(1 + RUNS)]
    return statistics.median(times[1:])


class Clock(keras.callbacks.Callback):
    """Notes processor time when steps end and stops behind the last."""

    def __init__(self, num_steps):
        super().__init__()
        self.num_steps = num_steps
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.process_time())
        self.model.stop_training = len(self.ends) > self.num_steps


def search(work, width, size, num_classes) -> dict:
    """Takes steps of a long search, masks from the first layer on."""
    modular = ModularModel(network(width, size, num_classes))
    modular.compile()
    images = random_images(STEPS * BATCH_SIZE, size)
    labels = np.arange(len(images)) % num_classes
    apart = steps_apart(modular.masks.num_scores, LONG)
    clock = Clock(STEPS + SORTS * max(apart, STEPS))
    modular.fit(
        images,
        labels,
        batch_size=BATCH_SIZE,
        epochs=LONG // STEPS,
        callbacks=[clock],
        verbose=0,
    )
    times = np.diff(clock.ends)[STEPS:].reshape(SORTS, -1)
    rows = BATCH_SIZE * min(modular.recipe.rows_per_image, num_classes)
    mega_scores = modular.masks.num_scores / 1e6
    return {
        "seconds": float(np.median(times.mean(axis=1))),
        "gmacs": rows * float(modular.macs.total) / 1e9,
        "mega_scores": mega_scores,
        "mega_sorted": mega_scores / apart,
        "mega_activations": rows * activations(modular.flat_source) / 1e6,
        "mib": peak_mib(),
    }


def validate(work, width, size, num_classes) -> dict:
    """Lets all modules answer to a few images."""
    modular = ModularModel(network(width, size, num_classes))
    count = max(1, 320 // num_classes)
    images = random_images(count, size)
    seconds = median_seconds(lambda: run_model(modular, images))
    rows = count * num_classes
    return {
        "seconds": seconds,
        "gmacs": rows * float(modular.macs.total) / 1e9,
        "mega_activations": rows * activations(modular.flat_source) / 1e6,
    }


def activations(model) -> int:
    """Returns how many numbers all layers make of one image."""
    return sum(math.prod(layer.output.shape[1:]) for layer in model.layers)


def store(work, width, size, num_classes) -> dict:
    """Cuts all modules, compares and stores them."""
    modular = ModularModel(network(width, size, num_classes), value_range=RANGE)
    draw = np.random.default_rng(0)
    masks = modular.kernel_masks
    kept = draw.random(masks.shape) < RETENTION
    for layer in modular.kernels.layers:  # None may lose all.
        kept[:, modular.kernels.ids_of(layer)[0]] = True
    modular.kernel_masks = kept
    path = store_path(work, width, size, num_classes)
    seconds = processor_seconds(
        lambda: decompose(modular, path, overwrite=True)
    )
    files = [each for each in path.rglob("*") if each.is_file()]
    return {
        "seconds": seconds,
        **sizes_of(load_store(path)),
        "mib": sum(each.stat().st_size for each in files) / 2**20,
    }


def store_path(work, width, size, num_classes):
    return work / f"stored-{width}-{size}-{num_classes}"


def sizes_of(stored) -> dict:
    parameters = [stored.info(name).parameters for name in stored]
    return {
        "modules": len(parameters),
        "mega_parameters": sum(parameters) / 1e6,
    }


def compose_all(work, width, size, num_classes) -> dict:
    """Composes all modules of a store."""
    path = store_path(work, width, size, num_classes)
    stored = load_store(path)
    spec = {
        "version": 1,
        "name": "all",
        "stores": {"source": {"path": path}},
        "classes": [
            {"name": name, "module": {"store": "source", "class": name}}
            for name in stored.class_names
        ],
    }
    spec_path = write_spec(spec, work / f"{path.name}.yaml").path
    seconds = processor_seconds(lambda: compose(spec_path))
    return {"seconds": seconds, **sizes_of(stored)}


def refine(work, width, size, num_classes) -> dict:
    """Trains all modules of a store together for a few steps."""
    stored = load_store(store_path(work, width, size, num_classes))
    modules = [stored[name].model for name in stored.class_names]
    teacher = network(width, size, num_classes)
    teacher.trainable = False
    images = random_images(STEPS * BATCH_SIZE, size)
    labels = np.arange(len(images)) % num_classes
    joint = None

    def start():
        nonlocal joint
        joint = JointModel(modules, teacher, 3.0)
        joint.compile(adam(0.001), loss=ModuleLoss(), metrics=["accuracy"])
        build_ahead(joint, labels, num_classes)
        fit(BATCH_SIZE)

    def fit(count):
        joint.fit(
            images[:count], labels[:count], batch_size=BATCH_SIZE, verbose=0
        )

    start_seconds = processor_seconds(start)
    seconds = median_seconds(lambda: fit(len(images)))
    return {
        "seconds": seconds / STEPS,
        "start_seconds": start_seconds,
        "layers": len(joint.network.layers),
        "gmacs": BATCH_SIZE * model_sizes(joint.network).macs / 1e9,
    }


def open_store(work, num_stores, num_modules) -> dict:
    """Opens a store of nothing but manifests."""
    path = manifests(work, num_stores, num_modules).parent / "store-0"
    seconds = median_seconds(lambda: load_store(path, verify=False))
    size = (path / "store.yaml").stat().st_size
    return {"seconds": seconds, "modules": num_modules, "mib": size / 2**20}


def manifests(work, num_stores, num_classes):
    folder = work / f"manifests-{num_stores}-{num_classes}"
    if not (folder / "spec.yaml").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_stores(folder, num_stores, num_classes)
    return folder / "spec.yaml"


def plan(work, num_stores, num_classes) -> dict:
    """Plans a composition of all classes of some stores."""
    spec = manifests(work, num_stores, num_classes)
    command = [sys.executable, "-m", "kmod", "compose", spec, "--dry-run"]
    before = children_seconds()
    subprocess.run([*command, "--json"], check=True, capture_output=True)
    return {
        "seconds": children_seconds() - before,
        "classes": num_classes,
        "stores": num_stores,
    }


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


MEASURES = {
    "search": search,
    "validate": validate,
    "store": store,
    "compose": compose_all,
    "refine": refine,
    "open": open_store,
    "plan": plan,
}


def fitted_to(runs: list[dict], features: tuple, kind: str) -> dict:
    """Fits a cost to all runs but the last and compares it with that.

    Args:
        runs: Figures of the cells.
        features: Names of the figures that the cost is a sum of.
        kind: Name of the cost.
    """
    *fitted, held_out = runs
    costs = np.array([run[kind] for run in fitted])
    table = np.array([row_of(run, features) for run in fitted])
    weights = least_squares(table / costs[:, None], np.ones(len(costs)))
    residuals = table @ weights / costs - 1
    found = float(row_of(held_out, features) @ weights)
    return {
        "weights": dict(zip(("constant", *features), map(float, weights))),
        "fitted_error": float(np.abs(residuals).max()),
        "held_out": {"measured": held_out[kind], "predicted": found},
        "error": found / held_out[kind] - 1,
    }


def row_of(run, features):
    return np.array([1.0, *(run[name] for name in features)])


def least_squares(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns weights of least squares, none below 0.

    What would get a negative weight gets none, the most negative first.
    """
    kept = np.ones(table.shape[1], bool)
    while True:
        weights = np.zeros(len(kept))
        weights[kept] = np.linalg.lstsq(table[:, kept], wanted, rcond=None)[0]
        if weights.min() >= 0:
            return weights
        kept[weights.argmin()] = False


def cost(model: dict, **features: float) -> float:
    """Returns what a fitted model predicts."""
    weights = model["weights"]
    return weights["constant"] + sum(
        weights[name] * value for name, value in features.items()
    )


def shape() -> dict:
    """Returns the sizes of the prediction's network and of its modules."""
    modular = ModularModel(network(WIDTH, SIZE, 10))
    return {
        "macs": float(modular.macs.total),
        "parameters": model_sizes(modular.flat_source).parameters,
        "activations": activations(modular.flat_source),
        "groups": modular.masks.mask.shape[1],
        "layers": len(modular.flat_source.layers),
    }


def predict(models: dict, sizes: dict) -> dict:
    """Works out hours of one core and bytes for many sources and hosts."""
    rows = [of_source(models, sizes, count) for count in CLASSES]
    many = rows[-1]
    alone = sum(many["hours"].values())
    ratio = read_result("scale")["throughput_ratio"] / 2
    plan_seconds = cost(
        models["plan"]["seconds"], classes=CLASSES[-1], stores=SOURCES
    )
    nodes = {
        str(count): {
            "days": SOURCES * alone / count / (1 if count == 1 else ratio) / 24
        }
        for count in NODES
    }
    return {
        "sources": SOURCES,
        "source": [
            {"classes": count, **row} for count, row in zip(CLASSES, rows)
        ],
        "tib": SOURCES * many["mib"] / 2**20,
        "nodes": nodes,
        "share_kept_by_two_nodes": ratio,
        "plan_seconds": plan_seconds,
    }


def of_source(models, sizes, num_classes):
    """Returns what one source takes, by step, in hours of one core."""
    steps = EPOCHS * math.ceil(TRAIN / BATCH_SIZE)
    body, made = (sizes[key] * (1 - STEM) for key in ("macs", "activations"))
    search, scores = models["search"]["seconds"], num_classes * sizes["groups"]
    seconds = {
        # The stem is computed once for each image, and kept.
        "search": steps
        * cost(
            search,
            gmacs=BATCH_SIZE * ROWS * body / 1e9,
            mega_activations=BATCH_SIZE * ROWS * made / 1e6,
            mega_scores=scores / 1e6,
            mega_sorted=scores / steps_apart(scores, steps) / 1e6,
        ),
        "validate": (EPOCHS + 1)
        * cost(
            models["validate"]["seconds"],
            gmacs=VALIDATION * num_classes * body / 1e9,
            mega_activations=VALIDATION * num_classes * made / 1e6,
        ),
    }
    # A module keeps a share of what each layer reads and of what it makes.
    parameters = num_classes * sizes["parameters"] * RETENTION**2 / 1e6
    given = {"modules": num_classes, "mega_parameters": parameters}
    seconds["store"] = cost(models["store"]["seconds"], **given)
    return {
        "hours": {name: value / 3600 for name, value in seconds.items()},
        "compose_hours": cost(models["compose"]["seconds"], **given) / 3600,
        "refine_step_seconds": cost(
            models["refine"]["seconds"],
            layers=num_classes * sizes["layers"],
            gmacs=BATCH_SIZE * num_classes * body * RETENTION**2 / 1e9,
        ),
        "refine_start_hours": cost(
            models["refine"]["start_seconds"],
            layers=num_classes * sizes["layers"],
        )
        / 3600,
        "open_seconds": cost(models["open"]["seconds"], modules=num_classes),
        "mib": cost(models["store"]["mib"], **given),
    }


if __name__ == "__main__":
    main()
