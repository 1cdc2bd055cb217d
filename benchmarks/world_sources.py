"""The source models of `worlds.py` and their module stores.

    python benchmarks/world_sources.py --data-dir DIR [--work DIR]

Far sources know a data set each, near ones a part of the classes of CIFAR-10:
animals and vehicles, or five classes each of a random split. Each is trained,
modularized for modules alone and cut into a store below `--work`. Far ones,
animals and vehicles are made with every seed, each split with one of them.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path

import keras
import numpy as np
import twins

from kmod.data.image_data import ImageData
from kmod.data.load import load_data
from kmod.modular.modularize import modularize
from kmod.modules.decompose import decompose
from kmod.zoo.build import build
from kmod.zoo.train import train_source

VALIDATION = 200  # Images of each class.
SPLITS, SEEDS = 5, 3


@dataclasses.dataclass(frozen=True)
class Source:
    """A source model.

    Attributes:
        name: Of the source.
        data: Its data set.
        classes: Those of the data set that it learns.
        architecture: Of the network.
        images: Training images of each class.
        epochs: Of the training.
        mask_epochs: Of the modularization.
    """

    name: str
    data: str
    classes: tuple[int, ...]
    architecture: str
    images: int
    epochs: int
    mask_epochs: int = 4


ALL = tuple(range(10))
FAR = (
    Source("cifar10", "cifar10", ALL, "simcnn", 1500, 14),
    Source("fashion_mnist", "fashion_mnist", ALL, "rescnn", 1000, 8),
    Source("mnist", "mnist", ALL, "incecnn", 500, 8),
)
ANIMALS, VEHICLES = (2, 3, 4, 5, 6, 7), (0, 1, 8, 9)


def near() -> dict[str, tuple[Source, Source]]:
    """Both sources of every way to divide CIFAR-10, by its name."""
    parts = {"kinds": (ANIMALS, VEHICLES)}
    for number in range(SPLITS):
        order = np.random.default_rng(number).permutation(10).tolist()
        parts[f"split{number}"] = tuple(order[:5]), tuple(order[5:])
    return {
        name: tuple(
            Source(
                f"{name}-{n}",
                "cifar10",
                own,
                architecture,
                2500 if name == "kinds" else 1500,
                16,
            )
            for n, own, architecture in zip("ab", both, ("rescnn", "incecnn"))
        )
        for name, both in parts.items()
    }


def teams(seed: int) -> dict[str, tuple[Source, ...]]:
    """All teams of sources that are made with a seed, by name."""
    found = {"far": FAR, **near()}
    for number in range(SPLITS):
        if number % SEEDS != seed:
            del found[f"split{number}"]
    return found


@functools.lru_cache(maxsize=3)
def load(name: str, data_dir) -> ImageData:
    return load_data(name, data_dir)


def images_of(source: Source, data_dir, seed: int) -> ImageData:
    """What a source is trained and validated on, and tested."""
    data, classes = load(source.data, data_dir), list(source.classes)
    return dataclasses.replace(
        data,
        class_names=tuple(data.class_names[index] for index in classes),
        train=twins.of_classes(
            twins.some(data.train, source.images, seed), classes
        ),
        validation=twins.of_classes(
            twins.some(data.validation, VALIDATION, seed), classes
        ),
        test=twins.of_classes(data.test, classes),
    )


def store_of(args, source: Source, seed: int) -> Path:
    """Returns the path of a source's store, which is made if missing."""
    path = args.work / "stores" / f"{source.name}-{seed}"
    if path.exists():
        return path
    start = time.perf_counter()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    data = images_of(source, args.data_dir, seed)
    shape = data.train.images.shape[1:]
    model = build(source.architecture, shape, len(source.classes))
    train_source(
        model,
        data,
        source.epochs,
        batch_size=64,
        seed=seed,
        augment=source.data == "cifar10",
        verbose=0,
    )
    model.save(path.parent.parent / f"{source.name}-{seed}.keras")
    held_out = data.validation.images, data.validation.labels
    modular = modularize(
        model,
        (data.train.images, data.train.labels),
        held_out,
        class_names=data.class_names,
        purpose="alone",
        epochs=source.mask_epochs,
        seed=seed,
        verbose=0,
    )
    decompose(
        modular,
        path,
        data=held_out,
        source_name=source.name,
        value_range=data.value_range,
        data_source={"name": source.data},
    )
    seconds = time.perf_counter() - start
    print(
        path.name, f"{modular.retention_rate:.3f} {seconds:.0f} s", flush=True
    )
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("worlds-work"))
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(range(SEEDS))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    (args.work / "stores").mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for team in teams(seed).values():
            for source in team:
                store_of(args, source, seed)


if __name__ == "__main__":
    main()
