"""Takes a fine-tuned MobileNetV2 apart with the commands of kmod alone.

    python benchmarks/own_photos.py --data-dir DIR [--seeds 0 1] [--work DIR]

As somebody with photos of their own would: MobileNetV2 of alpha 0.35 is trained
on six classes of CIFAR-10, enlarged to 96x96, and fine-tuned by plain `fit`, as
Keras' guide does, on a folder of 600 photos of the four other classes, 150 of
each. Then `inspect`, `modularize --for alone`, `compose`, `evaluate`,
`patch`, `export` and `test` run one after another, each as a process of its
own. A seed draws the photos and sets that of the trainings and of the search.
The weak model that is patched saw a tenth of one class's photos, and its base
stayed frozen.

Figures are of the folder's own 120 test images, which is one image for each
0.83 points, and of all 4,000 test images of these classes. Every finished part
is kept under `--work`, and a later call goes on from there. Writes
`benchmarks/results/own_photos.json` and the section `own_photos` of
`benchmarks/results/summary.json`.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
from common import accuracy
from common import command
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result
from keras import layers
from photos import SIZE
from photos import augmentation
from photos import portable
from photos import some
from photos import take_apart
from photos import train
from photos import write_folder

from kmod.data.load import load_data
from kmod.data.subsets import class_subset

RESULT = "own_photos"
CLASSES = ("automobile", "cat", "horse", "ship")
EACH = 150
WEAK_CLASS = "cat"
WEAK_SHARE = 0.1
TRAINED_ON = 4000  # Photos of each other class.
EPOCHS = 20  # With the base frozen, and then with it free.
RATES = 2e-3, 2e-4
FINE_BATCH_SIZE = 32


def main() -> None:
    args = parse_arguments()
    data = load_data("cifar10", args.data_dir)
    prepare(args, data)
    results = read_result(RESULT)
    results["command"] = command(args, "seeds")
    rows = results.setdefault("seeds", {})
    for seed in args.seeds:
        found = portable(measure(args, data, seed), args.work)
        figures = {"machine": machine(), **found}
        rows[str(seed)] = figures
        write_result(RESULT, results)
    update_summary(RESULT, summary(rows))
    print(json.dumps(summary(rows), indent=1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("photos-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(6)])
    return parser.parse_args()


def prepare(args, data):
    """Writes the photos and trains the network that is fine-tuned."""
    own = [data.class_names.index(name) for name in CLASSES]
    others = [i for i in range(len(data.class_names)) if i not in own]
    folder = args.work / "photos-6"

    def photos():
        for split, each in ("train", TRAINED_ON), ("val", 200):
            images = data.images_of({"val": "validation"}.get(split, split))
            chosen = some(images, each, others, 0)
            write_folder(folder / split, chosen, data.class_names)
        tests = class_subset(data.test, own)
        write_folder(args.work / "test" / "test", tests, CLASSES)
        few = some(class_subset(data.validation, own), 50, range(4), 0)
        write_folder(args.work / "test" / "train", few, CLASSES)

    def pretrained():
        train("mobile_net", folder, 9, 1).save(args.work / "base6.keras")

    part(args.work / "photos-6.json", photos)
    part(args.work / "base6.json", pretrained)


def measure(args, data, seed):
    folder = args.work / f"seed-{seed}"
    own = [data.class_names.index(name) for name in CLASSES]

    def photos():
        chosen = some(class_subset(data.train, own), EACH, range(4), seed)
        write_folder(folder / "photos", chosen, CLASSES)

    part(folder / "photos.json", photos)
    base = args.work / "base6.keras"
    rows = {
        name: part(folder / f"{name}.json", fine_tune, base, folder, name, seed)
        for name in ("source", "weak")
    }
    more = {"many": f"{args.work.resolve()}/test:test"}
    steps = take_apart(
        folder,
        "default",
        "photos",
        ["--seed", seed],
        few=CLASSES[:2],
        is_proposed=False,
        more=more,
    )
    return {**rows, "steps": steps}


def fine_tune(base, folder, name, seed):
    """Fine-tunes as Keras' guide does: the head, then everything.

    BatchNormalization stays as it is all the time, and of the weak model all
    but the head.
    """
    keras.utils.set_random_seed(seed)
    photos = load_data(folder / "photos", image_size=(SIZE, SIZE))
    images = photos.train
    if name == "weak":
        images = images.take(few_of_one_class(images.labels, seed))
    (base,) = [
        layer
        for layer in keras.models.load_model(base).layers
        if isinstance(layer, keras.Model)
    ]
    image = x = keras.Input((SIZE, SIZE, 3), name="image")
    for layer in augmentation():
        x = layer(x)
    x = base(layers.Rescaling(1 / 127.5, -1)(x), training=False)
    x = layers.Dropout(0.2)(x)
    x = layers.Dense(len(CLASSES), "softmax", name="scores")(x)
    model = keras.Model(image, x, name="photos")
    rates = RATES[:1] if name == "weak" else RATES
    for is_free, rate in zip((False, True), rates):
        base.trainable = is_free
        model.compile(
            keras.optimizers.Adam(rate),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(
            images.images,
            images.labels,
            batch_size=FINE_BATCH_SIZE,
            validation_data=(
                photos.validation.images,
                photos.validation.labels,
            ),
            epochs=EPOCHS,
            callbacks=[
                keras.callbacks.EarlyStopping(
                    "val_accuracy", patience=8, restore_best_weights=True
                )
            ],
            verbose=2,
        )
    model.save(folder / f"{name}.keras")
    return {
        "images": len(images),
        "validation_accuracy": accuracy(model, photos.validation),
        "accuracy": accuracy(model, photos.test),
    }


def few_of_one_class(labels, seed):
    weak = np.flatnonzero(labels == CLASSES.index(WEAK_CLASS))
    kept = np.random.default_rng(seed).permutation(weak)
    gone = kept[round(WEAK_SHARE * len(kept)) :]
    return np.setdiff1d(np.arange(len(labels)), gone)


def summary(rows):
    """Returns what the summary holds: figures of each seed, and gains.

    A gain is of the composed model's accuracy, in points: its mean over the
    first three seeds and over all, and the standard error of that.
    """
    runs = {seed: row["steps"] for seed, row in rows.items()}
    found = {"seed": list(runs)} | {
        key: [figure(run) for run in runs.values()]
        for key, figure in FIGURES.items()
    }
    for suffix in ("", "_many"):
        pairs = found[f"accuracy{suffix}"], found[f"source_accuracy{suffix}"]
        gains = 100 * np.subtract(*pairs)
        found[f"gain{suffix}"] = {
            "first_three": float(gains[:3].mean()),
            "mean": float(gains.mean()),
            "standard_error": float(
                gains.std() / max(len(gains) - 1, 1) ** 0.5
            ),
        }
    return found


def _accuracy(name):
    return lambda run: run[name]["printed"]["accuracy"]


def _after(key):
    return lambda run: run["modularize"]["printed"]["metrics"]["after"][key]


def _patched(run):
    """Returns the F1 of the patched class, before and after, if it helps."""
    printed = run["patch"]["printed"]
    if not isinstance(printed, dict):
        return None
    (patch,) = [
        each
        for each in printed["patches"]
        if each["target_class"] == WEAK_CLASS
    ] or [None]
    figures = patch and patch["figures"]["f1"]
    return figures and [figures["before"], figures["after"]]


FIGURES = {
    "source_accuracy": _accuracy("evaluate_source"),
    "accuracy": _accuracy("evaluate"),
    "source_accuracy_many": _accuracy("evaluate_many_source"),
    "accuracy_many": _accuracy("evaluate_many"),
    "retention_rate": _after("retention_rate"),
    "patched": _patched,
    "seconds": lambda run: run["modularize"]["seconds"],
    "peak_mib": lambda run: max(step["peak_mib"] for step in run.values()),
    "exit_codes": lambda run: [step["exit_code"] for step in run.values()],
}


if __name__ == "__main__":
    main()
