"""Takes three of ten classes with the commands as they stand, no option set.

    python benchmarks/defaults.py --data-dir DIR [--seeds 0 1 2] [--work DIR]

Sources of the zoo are trained on 10,000 images of CIFAR-10 for 14 epochs.
`kmod modularize` takes each apart by the same images, and `kmod compose` makes
a model of all ten classes and one of three, drawn by the seed. Beside that one
stand the source cut to three outputs and what `kmod slim --only` makes of the
whole network for the three, with a quarter of its operations. Seconds are
processor time, of the commands and of the source's training: an epoch in the
same run times its epochs. Test images are used for no choice. Finished cells
are read from `--work`, and those of other seeds from the committed results.
Writes `defaults.json` and the section `defaults` of `summary.json`.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import twins
import yaml
from common import accuracy
from common import command
from common import interval_of_mean
from common import part
from common import update_cells
from common import update_summary
from pays import EPOCHS
from pays import IMAGES
from pays import images_of
from pays import source_of
from slim import classes_of
from slim import epoch_seconds
from slim import latencies
from world_sources import ALL

import kmod
from kmod.graph.sizes import model_sizes


def taken(args, architecture: str, seed: int) -> dict:
    """Figures of what the commands make of one source, on test images."""
    keras.backend.clear_session()
    folder = args.work / f"{architecture}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # Of a cell cut short.
    folder.mkdir(parents=True)
    source, _ = source_of(args, architecture, ALL, seed)
    source.save(folder / "source.keras")
    data = images_of(ALL, IMAGES, args, seed)
    np.savez(
        folder / "images.npz",
        class_names=data.class_names,
        x_train=data.train.images,
        y_train=data.train.labels,
        x_validation=data.validation.images,
        y_validation=data.validation.labels,
    )
    classes = classes_of("three", seed)
    names = [data.class_names[index] for index in classes]
    figures = {
        "classes": names,
        "source_training_seconds": EPOCHS
        * epoch_seconds(args, architecture, seed),
    }
    images = "--data", "images.npz"
    figures["modularize_seconds"] = seconds_of(
        folder, "modularize", "source.keras", *images, "--out", "modules"
    )
    models = {"cut": with_outputs(source, classes), "source": source}
    for kind, wanted in ("three", names), ("all", data.class_names):
        write_spec(folder / f"{kind}.yaml", wanted)
        seconds_of(folder, "compose", f"{kind}.yaml", "--out", kind)
        models[kind] = kmod.load(folder / kind)
    only = [word for name in names for word in ("--only", name)]
    figures["slim_seconds"] = seconds_of(
        *(folder, "slim", "source.keras", *images, *only, "--out", "slim")
    )
    models["slim"] = kmod.load(folder / "slim")
    few = twins.of_classes(data.test, classes)
    for name, model in models.items():
        sizes = model_sizes(model)
        figures[f"{name}_macs"] = sizes.macs
        figures[f"{name}_parameters"] = sizes.parameters
        test = data.test if name in ("source", "all") else few
        figures[f"{name}_accuracy"] = accuracy(model, test)
    return figures | latencies(models)


def seconds_of(folder: Path, *words: str) -> float:
    """Runs a command in a folder; returns its processor time."""
    began = os.times()
    subprocess.run(
        [sys.executable, "-m", "kmod", *words], cwd=folder, check=True
    )
    used = [now - then for now, then in zip(os.times(), began)]
    return used[2] + used[3]  # Of processes that have ended.


def write_spec(path: Path, class_names) -> None:
    classes = [
        {"name": name, "module": {"store": "modules", "class": name}}
        for name in class_names
    ]
    spec = {
        "version": 1,
        "name": path.stem,
        "stores": {"modules": {"path": "modules"}},
        "classes": classes,
    }
    path.write_text(yaml.safe_dump(spec, sort_keys=False))


def with_outputs(source: keras.Model, classes) -> keras.Model:
    """Cuts the last layer of a source to some of its outputs."""
    logits = source.get_layer("logits")
    kernel, bias = logits.get_weights()
    head = keras.layers.Dense(len(classes), activation="softmax")
    model = keras.Model(source.input, head(logits.input))
    head.set_weights([kernel[:, classes], bias[classes]])
    return model


def summarise(cells: dict[str, dict]) -> dict:
    """Means over cells with intervals."""
    rows = {
        "three_loss": lambda c: c["cut_accuracy"] - c["three_accuracy"],
        "three_parameters": lambda c: c["three_parameters"],
        "three_macs_ratio": lambda c: c["three_macs"] / c["cut_macs"],
        "three_latency_ratio": lambda c: c["three_ms_1"] / c["cut_ms_1"],
        "slim_loss": lambda c: c["cut_accuracy"] - c["slim_accuracy"],
        "slim_parameters": lambda c: c["slim_parameters"],
        "slim_macs_ratio": lambda c: c["slim_macs"] / c["cut_macs"],
        "slim_latency_ratio": lambda c: c["slim_ms_1"] / c["cut_ms_1"],
        "all_loss": lambda c: c["source_accuracy"] - c["all_accuracy"],
        "all_macs_ratio": lambda c: c["all_macs"] / c["source_macs"],
        "modularize_time_ratio": lambda c: c["modularize_seconds"]
        / c["source_training_seconds"],
        "slim_time_ratio": lambda c: c["slim_seconds"]
        / c["source_training_seconds"],
    }
    summary = {"cells": len(cells)}
    for name, figure in rows.items():
        values = [figure(cell) for cell in cells.values()]
        summary[name] = {
            "mean": float(np.mean(values)),
            "interval": interval_of_mean(values),
        }
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("defaults-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--architectures", nargs="+", default=["simcnn", "rescnn", "incecnn"]
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    cells = {}
    for architecture in args.architectures:
        for seed in args.seeds:
            name = f"{architecture}-{seed}"
            path = args.work / "cells" / f"{name}.json"
            cells[name] = part(path, taken, args, architecture, seed)
            print(name, cells[name], flush=True)
    cells = update_cells(
        "defaults", cells, command(args, "seeds", "architectures")
    )
    update_summary("defaults", summarise(cells))


if __name__ == "__main__":
    main()
