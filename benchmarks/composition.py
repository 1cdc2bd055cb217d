"""One spec over three stores of different inputs, and what sharing saves.

Usage, from the root of the project:

    python benchmarks/composition.py --data-dir DIR [--work DIR] [--out DIR]

Three small twins are trained and taken apart, each on another data set, other
images and another range of values. Then all 30 classes are composed by one
spec, evaluated on the test images of all three data sets, exported and loaded
by a process that can not import kmod; and all classes of each store are
composed and held against the modular model they were cut from.

Every step is kept under `--work` as soon as it is done, so that a run that
was cut short goes on from there. Writes `composition.json`.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from common import RESULTS
from common import machine

from kmod.composition.composer import compose
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.saving import load
from kmod.composition.saving import save
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.files import atomic_write
from kmod.graph.sizes import model_sizes
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import write_spec
from kmod.zoo.build import build
from kmod.zoo.train import train_source

FORMATS = ("savedmodel", "keras", "litert", "onnx")
SEED = 0
NUM_TRAIN, NUM_COMPARED, NUM_ANSWERED = 10_000, 2_000, 100
EPOCHS, MASK_EPOCHS = 4, 3
# So short a training takes few kernels out without harm.
RECIPE = dataclasses.replace(DEFAULT, name="quick", retention_target=0.7)
IMAGES_PER_CLASS = 100
INPUT = {"shape": [32, 32, 3], "range": [0, 255], "size": "pad"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A source model to train.

    Attributes:
        data: Name of its data set.
        architecture: Name of its architecture in the zoo.
        range: Smallest and largest value of a pixel that it takes.
        mask_from: First layer whose kernels may go.
    """

    data: str
    architecture: str
    range: tuple[float, float]
    mask_from: str


SOURCES = {
    "cifar": Source("cifar10", "simcnn", (0.0, 255.0), "conv_5"),
    "fashion": Source("fashion_mnist", "rescnn", (-1.0, 1.0), "conv_5"),
    "mnist": Source("mnist", "incecnn", (0.0, 1.0), "conv_block_1_5x5"),
}

# What a program does that knows nothing of kmod.
FOREIGN = """
import sys
sys.modules["kmod"] = None
import keras, numpy as np, onnxruntime, tensorflow as tf
images = np.load(sys.argv[1])
served = tf.saved_model.load("saved_model")
lite = tf.lite.Interpreter("model.tflite").get_signature_runner("serve")
session = onnxruntime.InferenceSession("model.onnx")
np.savez(
    sys.argv[2],
    savedmodel=served.serve(images)["probabilities"],
    keras=keras.saving.load_model("model.keras")(images),
    litert=lite(image=images)["probabilities"],
    onnx=session.run(["probabilities"], {"image": images})[0],
)
"""


def build_source(name: str, work: Path, data_dir: str) -> dict:
    """Trains a source model and saves it; returns its figures."""
    given = SOURCES[name]
    data = _data(given, data_dir)
    began = time.perf_counter()
    source = _train(given, data)
    source.save(work / f"{name}.keras")
    return {
        **dataclasses.asdict(given),
        "input_shape": list(source.input_shape[1:]),
        "seed": SEED,
        "train_images": len(data.train),
        "epochs": EPOCHS,
        "seconds": time.perf_counter() - began,
    }


def build_store(name: str, work: Path, data_dir: str) -> dict:
    """Cuts a source model into a store; returns its figures."""
    given = SOURCES[name]
    data = _data(given, data_dir)
    source = keras.saving.load_model(work / f"{name}.keras")
    began = time.perf_counter()
    modular = modularize(
        source,
        (data.train.images, data.train.labels),
        (data.validation.images, data.validation.labels),
        class_names=data.class_names,
        recipe=RECIPE,
        mask_from=given.mask_from,
        epochs=MASK_EPOCHS,
        seed=SEED,
        verbose=2,
    )
    seconds = time.perf_counter() - began
    test = _scaled(data.test.take(np.arange(NUM_COMPARED)), given.range)
    decompose(
        modular,
        work / name,
        data=test,
        source_name=f"{given.data}-{given.architecture}",
        value_range=given.range,
        data_source={"name": given.data, "version": data.version},
        license="Apache-2.0",
        overwrite=True,
    )
    np.save(work / f"{name}.npy", modular.class_log_odds(test.images))
    manifest = load_store(work / name).manifest
    return {
        "seed": SEED,
        "recipe": RECIPE.as_dict(),
        "epochs": MASK_EPOCHS,
        "metrics": {
            when: dict(figures) for when, figures in manifest.metrics.items()
        },
        "seconds": seconds,
    }


def compose_store(name: str, work: Path, data_dir: str) -> dict:
    """Composes all classes of a store; compares with its modular model."""
    given, store = SOURCES[name], load_store(work / name)
    spec = {
        **_spec_head(f"all-{name}", [name], work),
        "classes": _classes(name, store),
    }
    model = compose(write_spec(spec, work / f"all-{name}.yaml"))
    test = _data(given, data_dir).test
    test = _scaled(test.take(np.arange(NUM_COMPARED)), given.range)
    expected = np.load(work / f"{name}.npy")
    log_odds = keras.Model(model.input, model.get_layer("log_odds").output)
    answers = log_odds.predict(test.images, batch_size=256, verbose=0)
    gap = np.abs(answers - expected).max() / np.abs(expected).max()
    macs = model_sizes(model).macs
    alone = sum(store.info(class_name).macs for class_name in store)
    return {
        "images": len(test),
        "same_predictions": int(
            np.sum(answers.argmax(1) == expected.argmax(1))
        ),
        "relative_gap": float(gap),
        "accuracy": float(np.mean(answers.argmax(1) == test.labels)),
        "macs": macs,
        "macs_unshared": alone,
        "macs_saved": 1 - macs / alone,
        "parameters": model.count_params(),
        "parameters_unshared": sum(store.info(c).parameters for c in store),
    }


def compose_three(work: Path, data_dir: str) -> dict:
    """Composes all 30 classes by one spec and saves every form."""
    spec = write_spec(_three_spec(work), work / "three-stores.yaml")
    model = compose(spec, data_dir)
    out = work / "three"
    began = time.perf_counter()
    save(model, out, formats=FORMATS, overwrite=True)
    manifest = read_composition_manifest(out)
    return {
        "classes": len(manifest.class_names),
        "images_per_class": IMAGES_PER_CLASS,
        "sizes": dict(manifest.sizes),
        "unshared": dict(manifest.unshared),
        "adapters": {
            name: steps.as_dict()
            for name, steps in model.composition.plan.adaptations.items()
        },
        "seconds_to_save": time.perf_counter() - began,
        "bytes": {form: _bytes(out / form) for form in sorted(os.listdir(out))},
    }


def _three_spec(work):
    return {
        **_spec_head("three-stores", SOURCES, work),
        "license": "Apache-2.0",
        "input": INPUT,
        "classes": [
            entry
            for name in SOURCES
            for entry in _classes(name, load_store(work / name))
        ],
        "scores": {
            "calibration": "fit",
            "data": [
                {"name": given.data, "split": "validation"}
                for given in SOURCES.values()
            ],
            "images_per_class": IMAGES_PER_CLASS,
        },
    }


def evaluate_three(work: Path, data_dir: str) -> dict:
    """Measures the 30 classes on the test images of each data set.

    With the fitted calibration of the spec, and for comparison with the one
    that was stored with the modules.
    """
    spec = {**_three_spec(work), "scores": {"calibration": "stored"}}
    models = {
        "fitted": load(work / "three"),
        "stored": compose(write_spec(spec, work / "three-stored.yaml")),
    }
    reader = reader_of_manifest(read_composition_manifest(work / "three"))
    return {
        given.data: _accuracies(models, load_data(given.data, data_dir), reader)
        for given in SOURCES.values()
    }


def _accuracies(models, data, reader):
    images = reader.read(data, "test")
    own = np.isin(reader.class_names, data.class_names)
    figures = {"images": len(images)}
    for name, model in models.items():
        scores = model.predict(images.images, batch_size=256, verbose=0)
        among_own = np.where(own, scores, -1).argmax(axis=1)
        figures[name] = {
            "accuracy_of_30": float(
                np.mean(scores.argmax(axis=1) == images.labels)
            ),
            "accuracy_of_own_10": float(np.mean(among_own == images.labels)),
        }
    return figures


def compare_forms(work: Path, data_dir: str) -> dict:
    """Loads every form in a process without kmod; compares the answers."""
    reader = reader_of_manifest(read_composition_manifest(work / "three"))
    tests = [
        reader.read(load_data(given.data, data_dir), "test")
        for given in SOURCES.values()
    ]
    images = [test.images[:NUM_ANSWERED] for test in tests]
    images = np.concatenate(images).astype("float32")
    np.save(work / "images.npy", images)
    paths = [str(work / name) for name in ("images.npy", "answers.npz")]
    subprocess.run(
        [sys.executable, "-c", FOREIGN, *map(os.path.abspath, paths)],
        cwd=work / "three",
        check=True,
    )
    expected = load(work / "three").predict(images, verbose=0)
    answers = np.load(paths[1])
    return {
        "images": len(images),
        "largest_difference": {
            form: float(np.abs(answers[form] - expected).max())
            for form in FORMATS
        },
        "same_predictions": {
            form: int(np.sum(answers[form].argmax(1) == expected.argmax(1)))
            for form in FORMATS
        },
    }


def _data(given, data_dir) -> ImageData:
    data = load_data(given.data, data_dir, seed=SEED)
    chosen = np.random.default_rng(SEED).permutation(len(data.train))
    return dataclasses.replace(
        data,
        train=_scaled(data.train.take(chosen[:NUM_TRAIN]), given.range),
        validation=_scaled(data.validation, given.range),
        value_range=given.range,
    )


def _scaled(images, values) -> LabelledImages:
    """Brings bytes to the range that a source model takes."""
    low, high = values
    scaled = images.images.astype("float32") * ((high - low) / 255) + low
    return LabelledImages(scaled, images.labels)


def _train(given, data):
    """Trains a twin of the zoo, which takes 0 to 255, on its own range."""
    keras.utils.set_random_seed(SEED)
    shape = data.train.images.shape[1:]
    twin = build(given.architecture, shape, len(data.class_names))
    low, high = given.range
    image = keras.Input(shape, name="image")
    scale = 255 / (high - low)
    layer = keras.layers.Rescaling(scale, -low * scale, name="own_range")
    source = keras.Model(image, twin(layer(image)), name=given.architecture)
    train_source(source, data, EPOCHS, seed=SEED, verbose=2)
    return source


def _spec_head(name, stores, work):
    return {
        "version": 1,
        "name": name,
        "stores": {store: {"path": work / store} for store in stores},
    }


def _classes(name, store):
    return [
        {"name": class_name, "module": {"store": name, "class": class_name}}
        for class_name in store
    ]


def _bytes(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path("work-composition"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    steps = {
        **{f"source {name}": (build_source, name) for name in SOURCES},
        **{f"store {name}": (build_store, name) for name in SOURCES},
        **{f"all of {name}": (compose_store, name) for name in SOURCES},
        "three stores": (compose_three,),
        "accuracy": (evaluate_three,),
        "forms": (compare_forms,),
    }
    results = {}
    for step, (function, *arguments) in steps.items():
        path = args.work / f"{step.replace(' ', '-')}.json"
        if not path.exists():
            figures = function(*arguments, args.work, args.data_dir)
            figures = {"machine": machine(), **figures}
            atomic_write(path, json.dumps(figures, indent=1) + "\n")
        results[step] = json.loads(path.read_text())
        print(step, json.dumps(results[step]), flush=True)
    text = json.dumps(results, indent=1) + "\n"
    atomic_write(args.out / "composition.json", text)


if __name__ == "__main__":
    main()
