"""Folders of photos, and the networks that plain `fit` trains on them.

What real_networks.py and own_photos.py share: photos, which are CIFAR-10's
images enlarged, networks and their training, and kmod's commands, each run as a
process of its own.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from common import part
from keras import layers
from PIL import Image

from kmod.data.image_data import LabelledImages
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import write_spec

SIZE = 96
SMALL = 48  # What most epochs are trained at, for a quarter of the time.
BATCH_SIZE = 64
MOMENTUM = 0.9  # Of BatchNormalization: 0.999 needs far longer trainings.


def write_folder(
    folder: Path, images: LabelledImages, class_names: Sequence[str]
) -> None:
    """Writes images as JPEG files, one folder for each class."""
    for index, (pixels, label) in enumerate(zip(images.images, images.labels)):
        path = folder / class_names[label] / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(pixels).resize((SIZE, SIZE), Image.BICUBIC)
        photo.save(path, quality=95)


def some(
    images: LabelledImages, each: int, classes: Sequence[int], seed: int
) -> LabelledImages:
    """Draws as many images of each of some classes.

    Args:
        images: Images of any classes.
        each: Integer, number of images of a class.
        classes: Class indices.
        seed: Integer, seed of the choice.
    """
    random = np.random.default_rng(seed)
    chosen = [
        random.permutation(np.flatnonzero(images.labels == label))[:each]
        for label in classes
    ]
    return images.take(np.sort(np.concatenate(chosen)))


def read_folder(folder: Path, size: int, shuffle: bool = False):
    """Reads a folder as Keras does; its pixels are kept in memory as bytes."""
    data = keras.utils.image_dataset_from_directory(
        folder,
        image_size=(size, size),
        batch_size=None,
        shuffle=False,
        verbose=False,
    )
    names, paths = data.class_names, data.file_paths
    data = data.map(_as_bytes).cache()
    if shuffle:
        data = data.shuffle(30000)
    data = data.batch(BATCH_SIZE).prefetch(2)
    data.class_names, data.file_paths = names, paths
    return data


def _as_bytes(image, label):
    return tf.cast(tf.round(image), "uint8"), label


def augmentation() -> list[keras.layers.Layer]:
    """Returns layers that change images in training only."""
    return [
        layers.RandomFlip("horizontal"),
        layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
    ]


def mobile_net(num_classes: int, size: int = SIZE) -> keras.Model:
    """Returns MobileNetV2 of alpha 0.35 as Keras' guide of transfer has it."""
    image = x = keras.Input((size, size, 3), name="image")
    for layer in augmentation():
        x = layer(x)
    x = layers.Rescaling(1 / 127.5, -1)(x)
    base = keras.applications.MobileNetV2(
        (size, size, 3), 0.35, include_top=False, weights=None, pooling="avg"
    )
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM
    x = layers.Dropout(0.2)(base(x))
    x = layers.Dense(num_classes, "softmax", name="scores")(x)
    return keras.Model(image, x, name="mobilenet_v2_035")


def residual_net(
    num_classes: int, size: int = SIZE, blocks: int = 4
) -> keras.Model:
    """Returns a network of 27 convolutions in 12 residual blocks.

    Args:
        num_classes: Integer.
        size: Integer, height and width of the photos.
        blocks: Integer, blocks of each of the three widths.
    """

    def convolve(x, filters, size, strides=1, is_last=False):
        x = layers.Conv2D(
            filters, size, strides, padding="same", use_bias=False
        )(x)
        x = layers.BatchNormalization(momentum=MOMENTUM)(x)
        return x if is_last else layers.ReLU()(x)

    image = x = keras.Input((size, size, 3), name="image")
    for layer in augmentation():
        x = layer(x)
    x = layers.Rescaling(1 / 255)(x)
    x = convolve(x, 16, 5, strides=2)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for filters in (16, 32, 64):
        for block in range(blocks):
            strides = 1 if block or filters == 16 else 2
            y = convolve(x, filters, 3, strides)
            y = convolve(y, filters, 3, is_last=True)
            if strides > 1:
                x = convolve(x, filters, 1, strides, is_last=True)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(num_classes, "softmax", name="scores")(x)
    return keras.Model(image, x, name="residual_net")


def small_net(num_classes: int, size: int = SIZE) -> keras.Model:
    """Returns a residual network of nine convolutions."""
    return residual_net(num_classes, size, blocks=1)


NETWORKS = {
    each.__name__: each for each in (mobile_net, residual_net, small_net)
}


def train(
    name: str,
    photos: Path,
    small_epochs: int,
    epochs: int,
    rate: float = 0.002,
    seed: int = 0,
) -> keras.Model:
    """Trains a network from random weights by plain `fit`.

    First on photos of half the size, then on those of the full one.

    Args:
        name: One of `NETWORKS`.
        photos: Folder that has folders `train` and `val`.
        small_epochs: Integer, epochs on small photos.
        epochs: Integer, epochs on photos of the full size.
        rate: Float, highest learning rate.
        seed: Integer.
    """
    keras.utils.set_random_seed(seed)
    weights = None
    for size, count in ((SMALL, small_epochs), (SIZE, epochs)):
        data = read_folder(photos / "train", size, shuffle=True)
        model = NETWORKS[name](len(data.class_names), size)
        if weights is not None:
            model.set_weights(weights)
        steps = count * -(-len(data.file_paths) // BATCH_SIZE)
        decay = keras.optimizers.schedules.CosineDecay(
            rate / 10,
            steps - steps // 10,
            alpha=0.01,
            warmup_target=rate,
            warmup_steps=steps // 10,
        )
        model.compile(
            keras.optimizers.AdamW(decay, weight_decay=0.02),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(
            data,
            validation_data=read_folder(photos / "val", size),
            epochs=count,
            verbose=2,
        )
        weights = model.get_weights()
    return model


def run_kmod(folder: Path, *words: str | Path) -> dict:
    """Runs a command of kmod as its user would, and measures it.

    Args:
        folder: Working directory.
        *words: The command's name and arguments.

    Returns:
        The command, its exit code, seconds, the most memory that it held at a
        time in MiB, Python and TensorFlow included, how many processes wanted
        a core at its end, and what it printed as JSON.
    """
    is_json = "--json" in words
    words = ["kmod", *map(str, words)]
    with tempfile.TemporaryDirectory() as there:
        usage = Path(there) / "usage"
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, usage, "-m", *words],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        cpu_seconds, peak = map(float, usage.read_text().split())
    return {
        "command": shlex.join(words),
        "exit_code": done.returncode,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": round(peak / 2**10),
        "load": os.getloadavg()[0],
        "printed": (
            json.loads(done.stdout)
            if is_json and not done.returncode
            else done.stdout
        ),
        "messages": _messages(done.stderr),
    }


def _messages(text):
    """Leaves out what TensorFlow says in every process."""
    own = ("WARNING: All log", "I0000", "E0000", "W0000")
    return [line for line in text.splitlines() if not line.startswith(own)]


# A process takes over the peak of the one that starts it, so that this must be
# a small one.
_MEASURED = """
import pathlib, resource, subprocess, sys
code = subprocess.call([sys.executable, *sys.argv[2:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
told = f"{used.ru_utime + used.ru_stime} {used.ru_maxrss}"
pathlib.Path(sys.argv[1]).write_text(told)
sys.exit(code)
"""


def take_apart(
    folder: Path,
    name: str,
    photos: str,
    options: Sequence,
    few: Sequence[str],
    is_proposed: bool = True,
    more: Mapping[str, str] | None = None,
) -> dict:
    """Runs every command on `source.keras`, and `patch` on `weak.keras`.

    What has run is read from the folder `commands`.

    Args:
        folder: Has both models.
        name: Names the store and all that is made of it.
        photos: What `--data` is given.
        options: Further options of `modularize`.
        few: Classes of a smaller model.
        is_proposed: Whether masks begin at the layer that `inspect`
            proposes.
        more: Further images to evaluate on, by name.

    Returns:
        What `run_kmod` returns, by step.
    """
    rows = {}

    def run(step, *words):
        path = folder / "commands" / name / f"{step}.json"
        rows[step] = part(path, run_kmod, folder, *words, "--json")
        return rows[step]["printed"]

    start = run("inspect", "inspect", "source.keras")["mask_from"]
    # Two fifths of what can be removed stay.
    target = round(1 - 0.6 * start["removable"], 2)
    proposed = ["--mask-from", start["layer"], "--retention-target", target]
    store = run(
        "modularize",
        *("modularize", "source.keras", "--data", photos),
        *("--for", "alone", "--frozen"),
        *(proposed if is_proposed else ()),
        *(*options, "--out", f"modules/{name}"),
    )["store"]
    tests = {"": f"{photos}:test"}
    tests |= {f"_{key}": value for key, value in (more or {}).items()}
    for suffix, classes in ("", None), ("_few", few):
        model = f"{name}{suffix}"
        write_spec(_spec(store, classes), folder / f"{model}.yaml")
        built = f"built/{model}"
        run(f"compose{suffix}", "compose", f"{model}.yaml", "--out", built)
        for key, data in tests.items():
            run(f"evaluate{key}{suffix}", "evaluate", built, "--data", data)
        run(f"test{suffix}", "test", built)
    for key, data in tests.items():
        run(f"evaluate{key}_source", "evaluate", "source.keras", "--data", data)
    run(
        "patch",
        *("patch", "weak.keras", "--donor", store),
        *("--data", f"{photos}:validation", "--out", f"patched/{name}"),
    )
    for form in ("litert", "savedmodel"):
        words = "--format", form, "--data", tests[""]
        out = "--out", f"deploy/{name}-{form}"
        run(f"export_{form}", "export", f"built/{name}", *words, *out)
    run("test_store", "test", store)
    return rows


def portable(rows: dict, work: Path) -> dict:
    """Returns figures without their directory's name and lists of layers."""
    text = json.dumps(rows).replace(str(work.resolve()), "WORK")
    rows = json.loads(text)
    for name in ("layers", "mask_starts"):
        rows["steps"]["inspect"]["printed"].pop(name, None)
    return rows


def _spec(path, classes):
    """Returns a spec of some classes of a store, of all with `None`."""
    return {
        "version": 1,
        "name": "some-classes" if classes else "all-classes",
        "stores": {"source": {"path": Path(path)}},
        "classes": [
            {"name": each, "module": {"store": "source", "class": each}}
            for each in classes or load_store(path)
        ],
    }
