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
import itertools
from pathlib import Path

import keras
import numpy as np
import twins
from twins import SourceSettings

from kmod.composition.scoring import line_of
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.data.subsets import dirichlet_subset
from kmod.metrics.calibration import fit_scores
from kmod.modules.adaptation import adapt_images
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.decompose import module_metrics
from kmod.modules.manifest import InputContract
from kmod.selection.module_choice import best_auxiliary

ARCHITECTURES = ("simcnn", "incecnn", "rescnn")
FEW = 50  # Labelled images of each class to choose and calibrate with.
MORE = 200  # As many as the papers choose with on CIFAR-10.
SOURCE_VALIDATION = 100
TEST_OWN, TEST_OTHER = 500, 200


@dataclasses.dataclass(frozen=True)
class Pool:
    """What the source models of a data set learn from, and how.

    Attributes:
        images: Images of each class in the pool.
        source: How source models and their modules are trained.
        concentration: Of the Dirichlet distribution.
        least: Images of a source's rarest class, at least.
        asked: Data sets on whose images the sources answer.
        first_seed: Of the first source; the others' follow.
        tests_from: How many test images of each class come before those that
            are asked about.
    """

    images: int
    source: SourceSettings
    concentration: float
    least: int
    asked: tuple[str, ...] = ("cifar10", "fashion_mnist", "mnist")
    first_seed: int = 1
    tests_from: int = 0


# As in the paper for CIFAR-10: concentration 1 and 2 % of a class; and for
# SVHN, digits too: 0.5 and hardly any.
POOLS = {
    "cifar10": Pool(800, SourceSettings(30, augment=True), 1.0, 16),
    "fashion_mnist": Pool(400, SourceSettings(25, batch_size=32), 1.0, 8),
    "mnist": Pool(300, SourceSettings(20, batch_size=32), 0.5, 3),
}


def pool(name: str, data_dir, settings: Pool) -> LabelledImages:
    """The images that source models, and models from scratch, learn from."""
    return twins.some(load(name, data_dir).train, settings.images)


def few_images(name: str, data_dir) -> LabelledImages:
    """The labelled images to choose and calibrate with."""
    return twins.some(load(name, data_dir).validation, FEW)


def more_images(name: str, data_dir) -> LabelledImages:
    """The same images and others; no source model saw any of them."""
    images = load(name, data_dir).validation
    seen = FEW + SOURCE_VALIDATION
    few = twins.indices_of_some(images.labels, FEW)
    others = twins.indices_of_some(images.labels, MORE - FEW, skip=seen)
    return images.take(np.concatenate([few, others]))


def test_images(
    name: str, data_dir, count: int, skip: int = 0
) -> LabelledImages:
    """Test images after `skip` others; fewer are the first of more."""
    return twins.some(load(name, data_dir).test, count, skip=skip)


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


def source_answers(
    args, name, settings, architecture, seed
) -> dict[str, np.ndarray]:
    """What a source model and its modules say of all data sets' images."""
    own = own_images(name, args.data_dir, settings, seed)
    modular = twins.train_modular(architecture, own, settings.source, seed)
    answers = {
        "counts": np.bincount(own.train.labels),
        "retention": np.array(modular.retention_rate),
        "f1": _own_f1(modular, own.validation),
    }
    for other in settings.asked:
        tests = TEST_OWN if other == name else TEST_OTHER
        parts = {
            "few": few_images(other, args.data_dir),
            "test": test_images(
                other, args.data_dir, tests, settings.tests_from
            ),
        }
        if other == name:
            parts["more"] = more_images(other, args.data_dir)
        for part, images in parts.items():
            given = adapted(other, name, images.images, args.data_dir)
            found = twins.module_answers(modular, given)
            found["features"] = _features(modular.flat_source, given)
            for key, values in found.items():
                answers[f"{other}_{part}_{key}"] = values.astype("float32")
    return answers


def own_images(name: str, data_dir, settings: Pool, seed: int) -> ImageData:
    """The uneven part of a data set that a source model learns from."""
    data = load(name, data_dir)
    return dataclasses.replace(
        data,
        train=dirichlet_subset(
            pool(name, data_dir, settings),
            len(data.class_names),
            seed,
            concentration=settings.concentration,
            min_count=settings.least,
        ),
        validation=twins.some(data.validation, SOURCE_VALIDATION, skip=FEW),
    )


def _own_f1(modular, validation):
    """F1 of every module on its source's held-out images, as stores have."""
    answers = twins.module_answers(modular, validation.images)["log_odds"]
    return np.array(
        [
            module_metrics(own, validation.labels == index)["f1"]
            for index, own in enumerate(answers.T)
        ]
    )


def _features(source, images):
    """What the last hidden layer says."""
    hidden = source.get_layer("logits").input
    model = keras.Model(source.input, hidden)
    return model.predict(images, batch_size=500, verbose=0)


def layer_of(scores: np.ndarray, labels: np.ndarray, calibration: str):
    """Fits what a spec's `calibration` puts behind the modules' scores.

    Args:
        scores: Log-odds `(n, scores)` of the chosen modules, and with `joint`
            of auxiliary ones.
        labels: int64 array `(n,)`.
        calibration: `"joint"` or `"fit"`.

    Returns:
        Weights `(scores, classes)` and biases `(classes,)`.
    """
    if calibration == "joint":
        return fit_scores(scores, labels)
    lines = [line_of(own, labels == c) for c, own in enumerate(scores.T)]
    scales, shifts = np.transpose(lines)
    return np.diag(scales), shifts


def combined(
    log_odds: dict[int, np.ndarray], largest: int
) -> dict[tuple[int, ...], np.ndarray]:
    """Returns the scores of a class by every combination of its modules.

    Args:
        log_odds: Each module's `(n,)`, by the number of its source.
        largest: Modules in a combination, at most. Their odds are added.
    """
    return {
        numbers: np.logaddexp.reduce([log_odds[number] for number in numbers])
        for size in range(1, largest + 1)
        for numbers in itertools.combinations(log_odds, size)
    }


def with_auxiliary(own, new, few_options, new_options, labels):
    """Adds the auxiliary scores that help most, as `kmod choose` does.

    Args:
        own: Scores `(n, classes)` of the labelled images.
        new: The same of other images.
        few_options: Auxiliary scores `(n, k)` of the labelled images, by key.
        new_options: The same of the other images.
        labels: int64 array `(n,)`.
    """
    key = best_auxiliary(own, few_options, labels)
    return (
        np.concatenate([own, few_options[key]], axis=1),
        np.concatenate([new, new_options[key]], axis=1),
    )


def sources(
    args, name: str, settings: Pool | None = None
) -> list[dict[str, np.ndarray]]:
    """All source models of a data set, trained if they are missing."""
    settings, found = settings or POOLS[name], []
    for seed in range(settings.first_seed, settings.first_seed + args.seeds):
        for architecture in args.architectures:
            path = args.work / file_name(name, settings, architecture, seed)
            answers = twins.arrays(
                path, source_answers, args, name, settings, architecture, seed
            )
            number = len(found)
            found.append(
                {"architecture": architecture, "number": number, **answers}
            )
            print(path.stem, flush=True)
    return found


def file_name(name, settings, architecture, seed):
    pool = f"{name}-{settings.images}-{settings.source.copies}"
    if settings.tests_from:
        pool += f"-{settings.tests_from}"
    return f"source-{pool}-{architecture}-{seed}.npz"


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
