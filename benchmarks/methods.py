"""Compares the methods that choose kernels, and two controls.

    python benchmarks/methods.py --data-dir DIR --seeds 2

For each network and data set, on the same source model and behind the same
stem: GradSplitter with its default recipe, CNNSplitter, and controls with as
many kernels of each layer and class as CNNSplitter's modules, the most
important or random ones. As in the paper CNNSplitter's modules and the controls
train nothing; with `--train-heads` a column of its own tells what heads, scales
and shifts add, trained on as many images as GradSplitter's. All are composed
with `calibration: joint`, fitted to the validation images that masks are chosen
on; composed with each module's own calibration is another column. The settings
of the search were chosen on validation images, too: those of small SimCNN and
of InceCNN on CIFAR-10. Figures are of the first 5,000 test images. Modules are
not cut here: that cut modules answer as the masked model does is checked
whenever a store is made.

A source model is read from `WORK/DATA-NETWORK/source.keras`, or trained there.
Every finished part is kept under `--work`, and a later call goes on from
there. Writes `benchmarks/results/methods.json`, its tables as `methods.md` and
the section `methods` of `benchmarks/results/summary.json`, in place of what an
earlier call wrote: a call for some of the networks writes figures of those.
"""

import argparse
import dataclasses
import os
import time
from pathlib import Path

import keras
import numpy as np
from common import accuracy
from common import command
from common import machine
from common import part
from controls import modularize_like
from evaluation_race import race
from method_tables import METHODS
from method_tables import write
from networks import WIDTHS
from networks import untrained

from kmod.data.image_data import ImageData
from kmod.data.load import load_data
from kmod.metrics.calibration import fit_scores
from kmod.metrics.overlap import class_overlap
from kmod.modular.cnnsplitter.evaluator import align_heads
from kmod.modular.cnnsplitter.modularize import RECIPE
from kmod.modular.cnnsplitter.modularize import modularize_by_search
from kmod.modular.cnnsplitter.modularize import recover
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT
from kmod.zoo.train import train_source

# The searches ran on a narrower InceCNN than `efficiency.py` has today.
OWN_WIDTHS = {**WIDTHS, "incecnn": 0.125}
NETWORKS = tuple(OWN_WIDTHS)
DATA = ("cifar10", "fashion_mnist")
MASK_FROM = {
    "simcnn": "conv_8",
    "rescnn": "conv_6",
    "incecnn": "conv_block_1_5x5",
}
SOURCE_EPOCHS = {"cifar10": 12, "fashion_mnist": 4}
SOURCE_IMAGES = {"cifar10": 45000, "fashion_mnist": 15000}
GRADIENT_TARGET = 0.42
SEARCH_TARGET = 0.57
TRAIN_IMAGES = 15000
TRAIN_EPOCHS = 3
VALIDATION_IMAGES = 2000
TEST_IMAGES = 5000
RACE_IMAGES = 512
SEARCH = SearchOptions(
    retention_target=SEARCH_TARGET,
    images=1000,
    population=16,
    generations=6,
    patience=6,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What a method is given, and where its parts are kept."""

    data: ImageData
    source: keras.Model
    network: str
    seed: int
    folder: Path

    @property
    def train(self):
        return some(self.seed, self.data.train, TRAIN_IMAGES)

    @property
    def validation(self):
        return some(self.seed, self.data.validation, VALIDATION_IMAGES)


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
            for seed in range(args.seeds):
                cells += measure(args, data, network, folder, seed)
            write(facts(args), cells, races_of(args, cells))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("methods-work"))
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS)
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument(
        "--train-heads",
        action="store_true",
        help="train the heads of searched modules and controls, too",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="how often to choose kernels of each source model",
    )
    return parser.parse_args()


def measure(args, data, network, folder, seed):
    """Measures all methods on one source model with one seed."""
    if not (folder / "source.keras").exists():
        part(folder / "source.json", train, data, network, folder)
    source = keras.models.load_model(folder / "source.keras")
    before = part(folder / "before.json", test_source, data, source)
    some_images = some(0, data.validation, RACE_IMAGES)[0]
    part(folder / "race.json", race, source, MASK_FROM[network], some_images)
    given = Given(data, source, network, seed, folder / f"seed-{seed}")
    cells = []
    for method in METHODS:
        path = given.folder / f"{method}.json"
        figures = part(path, run, given, method)
        if args.train_heads:
            path = given.folder / f"{method}-heads.json"
            heads = part(path, train_heads, given, method)
            figures["accuracy_trained"] = heads["accuracy"]
        losses = {
            f"accuracy_loss{kind}": 100
            * (before["accuracy"] - figures[f"accuracy{kind}"])
            for kind in ("", "_own", "_trained")
            if f"accuracy{kind}" in figures
        }
        setting = {
            "data": data.name,
            "network": network,
            "seed": seed,
            "mask_from": MASK_FROM[network],
            "source_accuracy": before["accuracy"],
            "method": method,
        }
        cells.append({**setting, **figures, **losses})
        print(cells[-1], flush=True)
    return cells


def train(data, network, folder):
    keras.utils.set_random_seed(0)
    source = untrained(network, data, OWN_WIDTHS[network])
    few = np.arange(min(SOURCE_IMAGES[data.name], len(data.train)))
    train_source(
        source,
        dataclasses.replace(data, train=data.train.take(few)),
        SOURCE_EPOCHS[data.name],
        batch_size=128,
        learning_rate=0.1,
        seed=0,
        augment=data.name == "cifar10",
        verbose=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    source.save(folder / "source.keras")


def test_source(data, source):
    return {"accuracy": accuracy(source, data.test)}


def some(seed, images, count):
    order = np.random.default_rng(seed).permutation(len(images))
    few = images.take(order[:count])
    return few.images, few.labels


def run(given, method):
    """Finds modules by one method; returns figures of them."""
    options = {
        "mask_from": MASK_FROM[given.network],
        "class_names": given.data.class_names,
        "seed": given.seed,
    }
    start = time.perf_counter(), time.process_time()
    if method == "gradsplitter":
        modular = modularize(
            given.source,
            given.train,
            given.validation,
            recipe=dataclasses.replace(
                DEFAULT, retention_target=GRADIENT_TARGET
            ),
            epochs=TRAIN_EPOCHS,
            accuracy_budget=1.0,  # The last epoch, which has fewest kernels.
            verbose=2,
            **options,
        )
    elif method == "cnnsplitter":
        modular = modularize_by_search(
            given.source,
            given.train,
            given.validation,
            options=SEARCH,
            head_epochs=0,
            verbose=2,
            **options,
        )
    else:
        modular = modularize_like(
            np.load(given.folder / "cnnsplitter.npy", allow_pickle=False),
            given.source,
            given.validation,
            method=method,
            confidence=SEARCH.confidence,
            **options,
        )
    figures = {
        "seconds": time.perf_counter() - start[0],
        "processor_seconds": time.process_time() - start[1],
        **figures_of(modular),
        **composed_accuracy(modular, given),
    }
    np.save(given.folder / f"{method}.npy", modular.kernel_masks)
    return figures


def train_heads(given, method):
    """Trains heads, scales and shifts of a method that trains nothing."""
    if method == "gradsplitter":
        return part(given.folder / "gradsplitter.json", dict)
    keras.utils.set_random_seed(given.seed)
    modular = ModularModel(
        given.source,
        recipe=RECIPE,
        mask_from=MASK_FROM[given.network],
        seed=given.seed,
    )
    modular.kernel_masks = np.load(
        given.folder / f"{method}.npy", allow_pickle=False
    )
    align_heads(modular, given.validation[0])
    modular.compile()
    recover(modular, given.train, given.validation, TRAIN_EPOCHS, verbose=2)
    return composed_accuracy(modular, given)


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


def composed_accuracy(modular, given):
    """Accuracy with a joint layer and with each module's own calibration."""
    images, labels = given.validation
    test = given.data.test
    own = modular.class_log_odds(test.images)
    weights, bias = fit_scores(modular.class_log_odds(images), labels)
    return {
        key: float(np.mean(scores.argmax(1) == test.labels))
        for key, scores in (
            ("accuracy", own @ weights + bias),
            ("accuracy_own", own),
        )
    }


def facts(args):
    """Tells where the figures come from."""
    return {
        "command": command(args, "networks", "data", "seeds"),
        "machine": machine(),
        "settings": {
            "threads": os.environ.get("TF_NUM_INTRAOP_THREADS", "all"),
            "train_images": TRAIN_IMAGES,
            "train_epochs": TRAIN_EPOCHS,
            "validation_images": VALIDATION_IMAGES,
            "test_images": TEST_IMAGES,
            "gradsplitter_target": GRADIENT_TARGET,
            "search": SEARCH.as_dict(),
        },
    }


def races_of(args, cells):
    sources = dict.fromkeys(f"{c['data']}-{c['network']}" for c in cells)
    return [part(args.work / name / "race.json", dict) for name in sources]


if __name__ == "__main__":
    main()
