"""Quantizes compositions for LiteRT and measures them on 5,000 test images.

    python benchmarks/quantized.py --data-dir DIR [--seeds 0 1 2] [--work DIR]

Compositions of all classes of CIFAR-10 from the sources of `pays.py`:

- `routed`: a source of the animals and one of the vehicles, as `kmod import`
  takes them; familiarity tells which one an image is of;
- `slim`: one source of all classes, which `kmod slim` made half as large.

Each is exported in full and as `int8`, by 400 validation images. Bytes are
those of the files; 500 test images of each class, which were used for nothing,
are answered by both. Finished cells are read from `--work`, and those of other
seeds from the committed results. Writes `quantized.json` and the section
`quantized` of `summary.json`.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
import twins
from common import command
from common import interval_of_mean
from common import part
from common import update_cells
from common import update_summary
from pays import EPOCHS
from pays import TESTS
from pays import VALIDATION
from pays import images_of
from pays import source_of
from world_sources import ALL
from world_sources import ANIMALS
from world_sources import VEHICLES
from world_sources import load

import kmod
from kmod.composition.exporting import export_model
from kmod.composition.exporting import load_exportable
from kmod.export import litert

KINDS = ("routed", "slim")
REPRESENTATIVE = 40  # Validation images of each class.


def composed(args, kind: str, architecture: str, seed: int):
    """Returns the model of a kind."""
    if kind == "slim":
        source, _ = source_of(args, architecture, ALL, seed)
        return kmod.slim(
            source,
            images_of(ALL, 1000, args, seed).train,
            class_names=load("cifar10", args.data_dir).class_names,
            epochs=EPOCHS,
            augment=True,
            seed=seed,
            verbose=0,
        )
    stores = [
        source_of(args, architecture, classes, seed)[1]
        for classes in (ANIMALS, VEHICLES)
    ]
    names = load("cifar10", args.data_dir).class_names
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        _, spec = kmod.choose_composition(names, stores, None, path)
        return kmod.compose(spec)


def quantized(args, kind: str, architecture: str, seed: int) -> dict:
    """Figures of a composition in full and quantized."""
    keras.backend.clear_session()
    model = composed(args, kind, architecture, seed)
    data = load("cifar10", args.data_dir)
    shown = twins.some(data.validation, REPRESENTATIVE, seed, VALIDATION)
    test = twins.some(data.test, TESTS)
    found = {"num_images": len(test)}
    with tempfile.TemporaryDirectory() as folder:
        kmod.save(model, Path(folder) / "model", formats=["keras"])
        exportable = load_exportable(Path(folder) / "model")
        for name, quantize in (("float32", None), ("int8", "int8")):
            directory = export_model(
                exportable,
                "litert",
                Path(folder) / name,
                images=shown.images.astype("float32"),
                quantize=quantize,
            )
            (path,) = directory.glob("*.tflite")
            images = test.images.astype("float32")
            answers = litert.predict(path, images)["probabilities"]
            right = answers.argmax(axis=1) == test.labels
            found[f"{name}_accuracy"] = float(np.mean(right))
            found[f"{name}_bytes"] = path.stat().st_size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("pays-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--architectures", nargs="+", default=["simcnn"])
    parser.add_argument(
        "--kinds", nargs="+", default=list(KINDS), choices=KINDS
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    cells = {}
    for seed in args.seeds:
        for architecture in args.architectures:
            for kind in args.kinds:
                name = f"{kind}-{architecture}-{seed}"
                path = args.work / "quantized" / f"{name}.json"
                given = args, kind, architecture, seed
                cells[name] = part(path, quantized, *given)
                print(name, cells[name], flush=True)
    own = command(args, "seeds", "architectures", "kinds")
    cells = update_cells("quantized", cells, own)
    update_summary("quantized", summary_of(cells))


def summary_of(cells: dict[str, dict]) -> dict:
    """Means over the cells of each kind, with bootstrap intervals."""
    found = {}
    for kind in KINDS:
        own = [cell for name, cell in cells.items() if name.startswith(kind)]
        if not own:
            continue
        loss = [c["float32_accuracy"] - c["int8_accuracy"] for c in own]
        share = [c["int8_bytes"] / c["float32_bytes"] for c in own]
        found[kind] = {
            "cells": len(own),
            "loss": float(np.mean(loss)),
            "loss_interval": interval_of_mean(loss),
            "largest_loss": max(loss),
            "bytes_ratio": float(np.mean(share)),
        }
    return found


if __name__ == "__main__":
    main()
