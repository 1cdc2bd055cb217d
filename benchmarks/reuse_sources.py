"""The source models of `new_task.py` and `more_accurate.py`.

    python benchmarks/reuse_sources.py --data-dir DIR [--seeds 3] [--work DIR]

Every source model learns an uneven part of one pool of images, drawn by the
paper's Dirichlet procedure, so that each knows other classes well. What it, its
modules and its last hidden layer say of all images is kept in `--work`, one
file for each source model. The two benchmarks train what is missing
themselves.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path

import keras
import numpy as np
import twins
from twins import SourceSettings

from kmod.composition.adaptation import plan_adaptation
from kmod.composition.adapters import adapt_images
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.data.subsets import dirichlet_subset
from kmod.masks.front import Front
from kmod.store.manifest import InputContract

ARCHITECTURES = ("simcnn", "incecnn", "rescnn")
FEW = 50  # Labelled images of each class to choose and calibrate with.
SOURCE_VALIDATION = 100
TEST_OWN, TEST_OTHER = 500, 200
# Images of each class in the pool, how the sources train, and the dimmest
# class: 2 % of the pool, as for CIFAR-10 in the paper.
POOLS = {
    "cifar10": (800, SourceSettings(10, augment=True)),
    "fashion_mnist": (300, SourceSettings(8)),
    "mnist": (200, SourceSettings(6)),
}


def pool(name: str, data_dir) -> LabelledImages:
    """The images that source models, and models from scratch, learn from."""
    return twins.some(load(name, data_dir).train, POOLS[name][0])


def few_images(name: str, data_dir) -> LabelledImages:
    """The labelled images to choose and calibrate with."""
    return twins.some(load(name, data_dir).validation, FEW)


def test_images(name: str, data_dir, count: int) -> LabelledImages:
    """Test images; fewer of them are the first of more."""
    return twins.some(load(name, data_dir).test, count)


@functools.lru_cache(maxsize=3)
def load(name, data_dir):
    return load_data(name, data_dir)


def adapted(name: str, to: str, images: np.ndarray, data_dir) -> np.ndarray:
    """Brings images of one data set to the input of another's models."""
    own, other = (
        InputContract(
            load(each, data_dir).train.images.shape[1:],
            "float32",
            tuple(load(each, data_dir).value_range),
        )
        for each in (name, to)
    )
    if own == other:
        return images
    adaptation = plan_adaptation(own, other)
    return adapt_images(images.astype("float32"), adaptation)


def source_answers(args, name, architecture, seed) -> dict[str, np.ndarray]:
    """What a source model and its modules say of all data sets' images."""
    data = load(name, args.data_dir)
    count, settings = POOLS[name]
    own = dataclasses.replace(
        data,
        train=dirichlet_subset(
            pool(name, args.data_dir),
            len(data.class_names),
            seed,
            min_count=max(count // 50, 5),
        ),
        validation=twins.some(data.validation, SOURCE_VALIDATION, skip=FEW),
    )
    modular = twins.train_modular(architecture, own, settings, seed)
    answers = {
        "counts": np.bincount(own.train.labels),
        "retention": np.array(modular.retention_rate),
        "seconds_per_image": np.array(_seconds(modular, own.train.images)),
    }
    for other in POOLS:
        tests = TEST_OWN if other == name else TEST_OTHER
        for part, images in (
            ("few", few_images(other, args.data_dir)),
            ("test", test_images(other, args.data_dir, tests)),
        ):
            given = adapted(other, name, images.images, args.data_dir)
            found = twins.module_answers(modular, given)
            found["features"] = _features(modular.flat_source, given)
            for key, values in found.items():
                answers[f"{other}_{part}_{key}"] = values.astype("float32")
    return answers


def _seconds(modular, images):
    """How long all modules take for one image, once graphs are traced."""
    images = images[:500]
    front = Front(modular)
    for _ in range(2):  # The first run traces.
        start = time.perf_counter()
        values = front.predict(images, batch_size=250, verbose=0)
        modular.predict(values, batch_size=250, verbose=0)
        seconds = time.perf_counter() - start
    return seconds / len(images)


def _features(source, images):
    """What the last hidden layer says."""
    hidden = source.get_layer("logits").input
    model = keras.Model(source.input, hidden)
    return model.predict(images, batch_size=500, verbose=0)


def sources(args, name: str) -> list[dict[str, np.ndarray]]:
    """All source models of a data set, trained if they are missing."""
    found = []
    for seed in range(1, args.seeds + 1):
        for architecture in args.architectures:
            path = args.work / f"source-{name}-{architecture}-{seed}.npz"
            answers = twins.arrays(
                path, source_answers, args, name, architecture, seed
            )
            found.append({"architecture": architecture, **answers})
            print(path.stem, flush=True)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("reuse-work"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--architectures", nargs="+", default=list(ARCHITECTURES)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    for name in POOLS:
        sources(args, name)


if __name__ == "__main__":
    main()
