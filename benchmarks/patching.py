"""Patches weak models with modules of strong ones, the papers' experiment.

    python benchmarks/patching.py --data-dir DIR [--seeds 1] [--work DIR]

A strong model learns five classes of a data set, the classes 0 to 4. A weak
model has to tell five: the classes 6 to 9, which the strong model never saw,
and one target of 0 to 4. It is weak in one of three ways: `simple` (three
convolutions), `overfit` and `underfit` (the strong architecture on few images,
without augmentation, momentum or decay; after the best of the epochs that have
learned the training images by heart, and after a third of as many). The module
of the target class then patches it.

Weak models, modules and what they say of all images are kept in `--work`, one
file for each, so that a run that was cut short goes on. All choices (epochs,
weights, whether to patch) are made on validation images cut from the
training images; all figures are of the test images. Writes `patching.json`,
`patching.csv` (one row for each patch) and `patching.png`.
"""

import argparse
import dataclasses
import functools
from pathlib import Path

import numpy as np
import patching_rows
import twins
from common import RESULTS
from common import command
from common import machine
from common import part
from common import update_summary
from common import write_result
from twins import SourceSettings

from kmod.data.image_data import ImageData
from kmod.data.load import load_data
from kmod.zoo.augmented_images import AugmentedImages
from kmod.zoo.build import build

ARCHITECTURES = ("simcnn", "incecnn", "rescnn")
VARIANTS = ("simple", "underfit", "overfit")
STRONG_CLASSES = (0, 1, 2, 3, 4)
UNSEEN_CLASSES = (6, 7, 8, 9)
CLASSES = (*STRONG_CLASSES, *UNSEEN_CLASSES)
VALIDATION_IMAGES = 200  # Of each class, at most, to fit patches on.
TEST_IMAGES = 500
SUMMARY_KEYS = (
    "num_patches",
    "precision_gain",
    "recall_gain",
    "f1_gain",
    "without_underfit",
    "papers_split",
    "papers_weakness",
    "f1_falls",
    "recall_falls",
    "other_classes_gain",
    "other_classes_worst",
    "rules",
    "by_rule",
    "by_data",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much of a data set the models see.

    Attributes:
        strong_images: Images of each class for the strong model.
        strong: How it is trained.
        weak_images: Images of each class for the weak models.
        weak_epochs: Epochs of the variants overfit and underfit, at most.
        simple_epochs: Epochs of the variant simple.
        augment: Whether the variant simple sees changed images.
    """

    strong_images: int
    strong: SourceSettings
    weak_images: int
    weak_epochs: int
    simple_epochs: int
    augment: bool = False


SETTINGS = {
    "cifar10": Settings(
        2000, SourceSettings(8, augment=True), 200, 9, 12, augment=True
    ),
    "fashion_mnist": Settings(1000, SourceSettings(5), 40, 10, 10),
    "mnist": Settings(800, SourceSettings(4), 10, 16, 16),
}


@functools.lru_cache(maxsize=1)
def load(name, data_dir) -> ImageData:
    return load_data(name, data_dir)


def strong_answers(args, name, architecture, seed) -> dict[str, np.ndarray]:
    """What the strong model and its modules say of all images."""
    data = load(name, args.data_dir)
    settings = SETTINGS[name]
    own = strong_data(data, settings, seed)
    modular = twins.train_modular(architecture, own, settings.strong, seed)
    answers = {}
    parts = images_of(data)
    for split, images in parts.items():
        found = twins.module_answers(modular, images.images)
        answers |= {f"{split}_{key}": found[key] for key in found}
    answers["retention"] = np.array(modular.retention_rate)
    twins.randomize(modular, own.validation, seed)
    for split, images in parts.items():
        found = twins.module_answers(modular, images.images)
        answers |= {f"{split}_random_{key}": found[key] for key in found}
    return answers


def strong_data(data, settings, seed) -> ImageData:
    """The strong model's five classes; it validates on images of its own."""
    return dataclasses.replace(
        data,
        class_names=tuple(data.class_names[c] for c in STRONG_CLASSES),
        train=twins.some(
            twins.of_classes(data.train, STRONG_CLASSES),
            settings.strong_images,
            seed,
        ),
        validation=twins.some(
            twins.of_classes(data.validation, STRONG_CLASSES),
            1000,
            skip=VALIDATION_IMAGES,
        ),
        test=twins.of_classes(data.test, STRONG_CLASSES),
    )


def images_of(data):
    """Images to patch with and to measure on, labelled 0 to 8 as CLASSES."""
    validation = twins.of_classes(data.validation, CLASSES)
    return {
        "validation": twins.some(validation, VALIDATION_IMAGES),
        "test": twins.some(twins.of_classes(data.test, CLASSES), TEST_IMAGES),
    }


def weak_answers(args, name, data, variant_twins, target, seed):
    """Trains the weak models of one target; returns their logits."""
    settings = SETTINGS[name]
    classes = (*UNSEEN_CLASSES, target)
    train = twins.some(
        twins.of_classes(data.train, classes),
        settings.weak_images,
        100 + seed,
        skip=0,
    )
    parts = {
        split: twins.of_classes(images, [CLASSES.index(c) for c in classes])
        for split, images in images_of(data).items()
    }
    simple, whole = variant_twins
    logits = {"simple": _simple(simple, train, parts, settings, seed)}
    logits |= _fits(whole, train, parts, settings, seed)
    return {
        f"{split}_{variant}": found[split]
        for variant, found in logits.items()
        for split in parts
    }


def _simple(twin, train, parts, settings, seed):
    twin.reset(200 + seed)
    images = train
    if settings.augment:
        images = AugmentedImages(train, twins.batch_size(train), seed)
    for _ in range(settings.simple_epochs):
        twin.epoch(images)
    return {split: twin.logits(parts[split].images) for split in parts}


def _fits(twin, train, parts, settings, seed):
    """Overfit and underfit, two epochs of one training."""
    twin.reset(300 + seed)
    weights, right, learned = [], [], []
    few = twins.some(parts["validation"], 50)
    for _ in range(settings.weak_epochs):
        learned.append(twin.epoch(train))
        weights.append(twin.model.get_weights())
        answers = twin.logits(few.images).argmax(axis=1)
        right.append(np.mean(answers == few.labels))
    by_heart = np.array(learned) >= 0.99
    by_heart[-1] = True
    overfit = int(np.where(by_heart, right, -1).argmax())
    found = {}
    for variant, epoch in (
        ("overfit", overfit),
        ("underfit", max((overfit + 1) // 3, 1) - 1),
    ):
        twin.model.set_weights(weights[epoch])
        found[variant] = {p: twin.logits(parts[p].images) for p in parts}
    return found


def train_all(args) -> None:
    """Trains what is missing in the work folder."""
    for seed in range(args.seeds):
        for architecture in args.architectures:
            for name in args.data:
                cell = f"{name}-{architecture}-{seed}"
                twins.arrays(
                    args.work / f"strong-{cell}.npz",
                    *(strong_answers, args, name, architecture, seed),
                )
                _train_weak(args, name, architecture, seed)
                print(cell, flush=True)


def _train_weak(args, name, architecture, seed):
    cell = f"{name}-{architecture}-{seed}"
    paths = {
        target: args.work / f"weak-{cell}-{target}.npz"
        for target in STRONG_CLASSES
    }
    if all(path.exists() for path in paths.values()):
        return
    data = load(name, args.data_dir)
    shape = data.train.images.shape[1:]
    pair = (
        twins.Twin(
            lambda: twins.simple_net(architecture, shape, 5),
            learning_rate=0.01,
            momentum=0.9,
            weight_decay=1e-4,
        ),
        twins.Twin(lambda: build(architecture, shape, 5), learning_rate=0.01),
    )
    for target, path in paths.items():
        twins.arrays(path, weak_answers, args, name, data, pair, target, seed)


def all_rows(args) -> list[dict]:
    """One row for each patch that has been trained so far, kept at once."""
    rows = []
    for seed in range(args.seeds):
        for name in args.data:
            for architecture in args.architectures:
                rows += _cell_rows(args, name, architecture, seed)
    return rows


def _cell_rows(args, name, architecture, seed):
    cell = f"{name}-{architecture}-{seed}"
    strong_path = args.work / f"strong-{cell}.npz"
    paths = [args.work / f"weak-{cell}-{c}.npz" for c in STRONG_CLASSES]
    if not all(path.exists() for path in (strong_path, *paths)):
        return []
    rows = []
    for target, path in zip(STRONG_CLASSES, paths):
        row_path = args.work / "rows" / f"{cell}-{target}.json"
        facts = {"data": name, "architecture": architecture, "seed": seed}
        found = part(row_path, _target_rows, args, facts, strong_path, path)
        rows += found["rows"]
    return rows


def _target_rows(args, facts, strong_path, weak_path):
    data = load(facts["data"], args.data_dir)
    strong = twins.arrays(strong_path, None)
    strong |= {
        f"{split}_labels": images.labels
        for split, images in images_of(data).items()
    }
    target = int(weak_path.stem.rpartition("-")[2])
    rows = patching_rows.rows_of(
        facts | {"target": data.class_names[target]},
        strong,
        twins.arrays(weak_path, None),
        target,
        VARIANTS,
        args.validation_images,
    )
    return {"rows": rows}


def write(args, rows: list[dict]) -> None:
    """Writes the rows, their means, the table and the plot."""
    summary = patching_rows.summary_of(rows)
    patching_rows.write_csv("patching", rows)
    patching_rows.plot(rows, RESULTS / "patching.png")
    facts = {
        "command": command(args, "data", "architectures", "seeds"),
        "machine": machine(),
        "seeds": list(range(args.seeds)),
        "validation_images_of_each_class": args.validation_images,
        "test_images_of_each_class": TEST_IMAGES,
        "settings": {k: dataclasses.asdict(v) for k, v in SETTINGS.items()},
    }
    write_result("patching", facts | summary)
    update_summary("patching", {k: summary[k] for k in SUMMARY_KEYS})
    print({key: summary[key] for key in SUMMARY_KEYS})


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("reuse-work"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", nargs="+", default=list(SETTINGS))
    parser.add_argument(
        "--architectures", nargs="+", default=list(ARCHITECTURES)
    )
    parser.add_argument(
        "--validation-images", type=int, default=VALIDATION_IMAGES
    )
    parser.add_argument(
        "--only-figures", action="store_true", help="of what is trained so far"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if not args.only_figures:
        train_all(args)
    write(args, all_rows(args))


if __name__ == "__main__":
    main()
