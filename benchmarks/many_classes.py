"""Takes models of thirty and of a hundred classes apart.

    python benchmarks/many_classes.py --data-dir DIR [--data thirty]

`thirty`: the classes of CIFAR-10, Fashion-MNIST and MNIST. `hundred`: pairs of
a digit of MNIST, in red, and a garment of Fashion-MNIST, in green; each pair
of classes is a class, and the two images of a pair are drawn from the same
split. One small SimCNN learns all classes; its modules are searched behind a
shared stem, cut, refined and composed. A step of the search is timed beside
that of a ten-class model of the same layers: modules per image are sampled,
so the number of classes should not matter. Settings were chosen on validation
images; accuracy is of test images. Every finished part is kept under `--work`.
Writes `benchmarks/results/many_classes.json` (of the hundred,
`hundred_classes.json`) and `classes_30` or `classes_100` in the section
`efficiency` of `benchmarks/results/summary.json`.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import keras
import numpy as np
from common import accuracy
from common import command
from common import machine
from common import part
from common import update_summary
from common import write_result

from kmod.composition.composer import compose
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.graph.sizes import model_sizes
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store
from kmod.modules.refine import refine
from kmod.spec.spec_file import write_spec
from kmod.zoo.build import build
from kmod.zoo.train import train_source

DATA_SETS = ("cifar10", "fashion_mnist", "mnist")
PAIRED = ("mnist", "fashion_mnist")
SHAPE = (32, 32, 3)
SOURCE_EPOCHS = 5
SEARCH_EPOCHS = 1
REFINE_EPOCHS = {"thirty": 3, "hundred": 8}
MASK_FROM = "hidden_1"
STEP_MASK_FROM = "conv_5"
BATCH_SIZE = 64
TIMED_STEPS = 20
RECIPE = dataclasses.replace(DEFAULT, retention_target=0.8)


def main():
    args = parse_arguments()
    data = DATA[args.data](args)
    work = args.work / args.data
    part(work / "source.json", train, args, data, work)
    source = keras.models.load_model(work / "source.keras")
    part(work / "search.json", search, args, data, source, work)
    part(work / "refine.json", improve, args, data, source, work)
    steps = part(work / "steps.json", time_steps, data, source)
    composed = compose_all(work / "refined")
    figures = {
        "source_accuracy": accuracy(source, data.test),
        "composed_accuracy": accuracy(composed, data.test),
        "macs_ratio": model_sizes(composed).macs / model_sizes(source).macs,
        "step_seconds": steps,
    }
    loss = figures["source_accuracy"] - figures["composed_accuracy"]
    figures["accuracy_loss"] = round(100 * loss, 6)
    figures["step_ratio"] = steps["many"] / steps["ten"]
    facts = {
        "command": command(args, "data", "images", "seed"),
        "machine": machine(),
        "seed": args.seed,
        "images_per_class": args.images or IMAGES[args.data],
    }
    name = {"thirty": "many_classes", "hundred": "hundred_classes"}[args.data]
    write_result(name, {**facts, **figures})
    short = {key: figures[key] for key in ("accuracy_loss", "step_ratio")}
    count = len(data.class_names)
    update_summary("efficiency", {f"classes_{count}": short})
    print(figures)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--data", choices=DATA, default="thirty")
    parser.add_argument("--work", type=Path, default=Path("classes-work"))
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="training images of each class (default: 1500 of the thirty, 400 "
        "of the hundred)",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def thirty_classes(args) -> ImageData:
    """Joins the three data sets: one shape, labels one after the other."""
    parts, names = {"train": [], "validation": [], "test": []}, []
    for index, name in enumerate(DATA_SETS):
        data = load_data(name, args.data_dir)
        for split, found in parts.items():
            images = getattr(data, split)
            if split == "train":
                count = args.images or IMAGES["thirty"]
                images = some_of_each(images, count, args.seed)
            found.append((in_colour(images.images), images.labels + 10 * index))
        names += [f"{name} {class_name}" for class_name in data.class_names]
    joined = {
        split: LabelledImages(*(np.concatenate(x) for x in zip(*found)))
        for split, found in parts.items()
    }
    first = load_data(DATA_SETS[0], args.data_dir)
    return dataclasses.replace(
        first, name="thirty", class_names=tuple(names), **joined
    )


def hundred_classes(args) -> ImageData:
    """Pairs digits with garments: class 10 d + g is digit d, garment g."""
    digits, garments = (load_data(name, args.data_dir) for name in PAIRED)
    draw = np.random.default_rng(args.seed)
    count = args.images or IMAGES["hundred"]
    joined = {}
    for split, each in (("train", count), ("validation", 50), ("test", 100)):
        labels = np.repeat(np.arange(100), each)
        pair = [
            _of_classes(getattr(data, split), classes, draw)
            for data, classes in (
                (digits, labels // 10),
                (garments, labels % 10),
            )
        ]
        blank = np.zeros_like(pair[0])
        images = np.concatenate([*pair, blank], axis=3)
        border = (SHAPE[0] - images.shape[1]) // 2
        sides = (border, border)
        images = np.pad(images, ((0, 0), sides, sides, (0, 0)))
        joined[split] = LabelledImages(images, labels)
    names = tuple(
        f"{digit} {garment}"
        for digit in digits.class_names
        for garment in garments.class_names
    )
    return dataclasses.replace(
        digits, name="hundred", class_names=names, **joined
    )


def _of_classes(images, classes, draw):
    """Draws an image of each class that is named."""
    of_class = [np.flatnonzero(images.labels == c) for c in range(10)]
    chosen = [draw.choice(of_class[c]) for c in classes]
    return images.images[chosen]


DATA = {"thirty": thirty_classes, "hundred": hundred_classes}
IMAGES = {"thirty": 1500, "hundred": 400}


def some_of_each(images, count, seed):
    order = np.random.default_rng(seed).permutation(len(images))
    chosen = [order[images.labels[order] == c][:count] for c in range(10)]
    return images.take(np.concatenate(chosen))


def in_colour(images):
    border = (SHAPE[0] - images.shape[1]) // 2
    sides = (border, border)
    padded = np.pad(images, ((0, 0), sides, sides, (0, 0)))
    return np.repeat(padded, SHAPE[2] // images.shape[3], axis=3)


def train(args, data, work):
    keras.utils.set_random_seed(args.seed)
    source = build("simcnn", SHAPE, len(data.class_names))
    train_source(
        source,
        data,
        SOURCE_EPOCHS,
        batch_size=128,
        learning_rate=0.1,
        seed=args.seed,
        verbose=2,
    )
    source.save(work / "source.keras")


def search(args, data, source, work):
    validation = (data.validation.images, data.validation.labels)
    modular = modularize(
        source,
        (data.train.images, data.train.labels),
        validation,
        class_names=data.class_names,
        recipe=RECIPE,
        mask_from=MASK_FROM,
        epochs=SEARCH_EPOCHS,
        batch_size=BATCH_SIZE,
        accuracy_budget=1.0,
        seed=args.seed,
        verbose=2,
    )
    decompose(modular, work / "cut", data=validation, overwrite=True)


def improve(args, data, source, work):
    refine(
        load_store(work / "cut"),
        work / "refined",
        source,
        (data.train.images, data.train.labels),
        (data.validation.images, data.validation.labels),
        epochs=REFINE_EPOCHS[args.data],
        batch_size=BATCH_SIZE,
        seed=args.seed,
        verbose=2,
        overwrite=True,
    )


def time_steps(data, source):
    """Times a step with many and with ten classes in turn; medians."""
    models = {"many": source, "ten": build("simcnn", SHAPE, 10)}
    few = data.train.take(np.arange(TIMED_STEPS * BATCH_SIZE))
    times = {name: [] for name in models}
    for name, model in models.items():
        models[name] = ModularModel(model, mask_from=STEP_MASK_FROM)
        models[name].compile()
    for _ in range(6):
        for name, model in models.items():
            labels = few.labels % model.num_classes
            start = time.perf_counter()
            model.fit(few.images, labels, batch_size=BATCH_SIZE, verbose=0)
            times[name].append((time.perf_counter() - start) / TIMED_STEPS)
    return {name: float(np.median(t[1:])) for name, t in times.items()}


def compose_all(path):
    store = load_store(path)
    classes = [
        {"name": name, "module": {"store": "source", "class": name}}
        for name in store.class_names
    ]
    spec = {
        "version": 1,
        "name": "all",
        "stores": {"source": {"path": path}},
        "classes": classes,
    }
    file = path.with_suffix(".yaml")
    write_spec(spec, file)
    return compose(file)


if __name__ == "__main__":
    main()
