"""`kmod doctor`: says what is installed and found, and whether it works."""

import argparse
import dataclasses
import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import kmod
from kmod.cli import console

_BROKEN = 1
_PYTHON = (3, 11)
_REQUIRED = (
    "keras",
    "tensorflow",
    "numpy",
    "scikit-learn",
    "scipy",
    "tensorflow-datasets",
)
# Packages of each extra, by the name that they are imported by, and use.
EXTRAS = {
    "ga": (("pygad",), "`kmod modularize --method cnnsplitter`"),
    "viz": (("matplotlib",), "figures of a search"),
    "tensorboard": (("tensorboard",), "what `MaskRecorder` draws"),
    "onnx": (("onnx", "onnxruntime", "tf2onnx"), "`--format onnx`"),
    "litert": (("ai_edge_litert",), "`--format litert`"),
    "jax": (("jax",), "the JAX backend, KERAS_BACKEND=jax"),
    "ray": (("ray",), "`kmod jobs --ray`"),
    "remote": (
        ("fsspec", "aiohttp", "huggingface_hub", "s3fs"),
        "stores at URLs",
    ),
}
_DATA_VARIABLE = "TFDS_DATA_DIR"  # What TensorFlow Datasets reads.
_DEFAULT_DATA = "~/tensorflow_datasets"
_TRIAL_IMAGES = 64
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: What was looked at.
        state: `"missing"` is no fault, since it is optional.
        detail: What was found.
        way_out: What to do, if it is missing or broken.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    way_out: str = ""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="say what is installed and found, and whether it works",
        description="Prints versions, extras, backend, devices, memory and "
        "data sets, then trains a tiny model, cuts its modules and loads them "
        "again. Exits with 1 if something needed is broken.",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="prepared TensorFlow Datasets (default: the folder that the "
        "environment variable TFDS_DATA_DIR names)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print what was found as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with console.status("examining"):
        findings = list(_examine(args.data_dir))
    is_sound = all(each.state != "broken" for each in findings)
    if args.json:
        rows = [dataclasses.asdict(each) for each in findings]
        console.print_json({"is_sound": is_sound, "findings": rows})
    else:
        console.print_table(
            ["", "", "found"],
            [[each.name, each.state, each.detail] for each in findings],
        )
    for each in findings:
        if each.state == "broken":
            message = f"kmod: {each.name}: {each.detail} {each.way_out}"
            console.print_message(message, style="red")
        elif each.way_out:
            console.print_note(f"{each.name}: {each.way_out}")
    return 0 if is_sound else _BROKEN


def _examine(data_dir: str | None) -> Iterator[Finding]:
    yield Finding("kmod", "ok", kmod.__version__)
    yield _python()
    yield Finding("machine", "ok", f"{platform.platform()}, {_resources()}")
    required = [_package(name) for name in _REQUIRED]
    yield from required
    for extra, (modules, use) in EXTRAS.items():
        yield _extra(extra, modules, use)
    yield from _data_sets(data_dir)
    if any(each.state == "broken" for each in required):
        return
    for name, examine in (("backend", _backend), ("trial", _trial)):
        try:
            yield Finding(name, "ok", examine())
        except Exception as error:  # Whatever a broken installation raises.
            yield Finding(name, "broken", _words(error), _WAYS_OUT[name])


_WAYS_OUT = {
    "backend": "Set KERAS_BACKEND to tensorflow, or install what it names: "
    "`pip install 'kmod[jax]'`.",
    "trial": "Install kmod in a new environment: in its folder, `python -m "
    "venv fresh && fresh/bin/pip install .`. If that fails, too, report it "
    "with this output.",
}


def _words(error):
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"


def _python():
    version = platform.python_version()
    detail = f"{version} at {sys.executable}"
    if sys.version_info >= _PYTHON:
        return Finding("Python", "ok", detail)
    wanted = ".".join(map(str, _PYTHON))
    way_out = f"Install Python {wanted} or later."
    return Finding("Python", "broken", detail, way_out)


def _resources():
    """Cores that may be used, and memory where the system tells it."""
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    words = f"{cores} cores"
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        words += f", {size / 2**30:.1f} GiB of memory"
    return words


def _package(name):
    """Looks for a required package, and holds its version against kmod's."""
    specifier = _requirements().get(name)
    wanted = f"{name}{specifier or ''}"
    way_out = f"`pip install '{wanted}'`"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "broken", f"{wanted} is not installed.", way_out)
    if specifier is not None and not specifier.contains(version, True):
        detail = f"{version}, where kmod needs {specifier}."
        return Finding(name, "broken", detail, way_out)
    return Finding(name, "ok", version)


def _requirements():
    """Versions that kmod needs; none are known of a checkout."""
    from packaging.requirements import Requirement

    try:
        found = map(Requirement, metadata.requires("kmod") or ())
    except metadata.PackageNotFoundError:
        return {}
    return {each.name: each.specifier for each in found if each.marker is None}


def _extra(extra, modules, use):
    name = f"extra {extra}"
    versions = {}
    for module in modules:
        try:
            # What is installed but can not be imported is of no use.
            found = importlib.import_module(module)
        except Exception as error:
            return Finding(
                name,
                "missing",
                f"{module}, for {use}: {_words(error)}",
                f"`pip install 'kmod[{extra}]'`",
            )
        versions[module] = getattr(found, "__version__", "")
    words = ", ".join(f"{k} {v}".strip() for k, v in versions.items())
    return Finding(name, "ok", f"{words}, for {use}")


def _data_sets(data_dir):
    yield Finding("data digits", "ok", "part of scikit-learn")
    if data_dir:
        origin, path = "--data-dir", data_dir
    elif os.environ.get(_DATA_VARIABLE):
        origin, path = _DATA_VARIABLE, os.environ[_DATA_VARIABLE]
    else:
        origin, path = "default", os.path.expanduser(_DEFAULT_DATA)
    name = f"data in {path}"
    found = _prepared(Path(path))
    if found:
        yield Finding(name, "ok", f"{', '.join(found)} ({origin})")
    else:
        yield Finding(
            name,
            "missing",
            f"no data set of TensorFlow Datasets ({origin})",
            "Prepare one with `kmod.load_data('mnist', DIR, "
            "download=True)` in Python, and give `--data-dir DIR`; or take "
            "`digits` or images of your own, which need none.",
        )


def _prepared(path):
    """Names and versions of prepared data sets in a directory."""
    return sorted(
        f"{info.parent.parent.name}:{info.parent.name}"
        for info in path.glob("*/*/dataset_info.json")
    )


def _backend():
    import keras

    devices = keras.distribution.list_devices()
    return f"Keras on {keras.backend.backend()}, devices {', '.join(devices)}"


def _trial():
    """Trains a tiny model, cuts its modules, saves and loads them."""
    import keras
    import numpy as np

    from kmod.data.load import load_data
    from kmod.export.keras_file import load_keras_file
    from kmod.graph.exactness import output_gap
    from kmod.modular.modular_model import ModularModel
    from kmod.modules.cut import cut_module
    from kmod.modules.cut import log_odds_model
    from kmod.modules.decompose import decompose
    from kmod.modules.module_store import load_store

    data = load_data("digits")
    train = data.train.take(np.arange(_TRIAL_IMAGES))
    source = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(data.class_names), "softmax"),
        ]
    )
    source.compile("adam", "sparse_categorical_crossentropy")
    history = source.fit(train.images, train.labels, verbose=0)
    (loss,) = history.history["loss"]
    if not np.isfinite(loss):
        raise ArithmeticError(f"the loss of a training is {loss}")
    modular = ModularModel(source, data.class_names)
    expected = modular.class_log_odds(train.images)[:, 0]
    with tempfile.TemporaryDirectory() as folder:
        if keras.backend.backend() == "tensorflow":
            path = Path(folder, "store")
            decompose(modular, path, value_range=data.value_range)
            module = load_store(path)[data.class_names[0]].model
        else:  # TensorFlow alone writes the SavedModels of a store.
            path = Path(folder, "module.keras")
            cut_module(modular, 0).save(path)
            module = load_keras_file(path)
        log_odds = log_odds_model(module)
        answers = log_odds.predict(train.images, verbose=0)[:, 0]
    gap = output_gap(answers, expected)
    if not gap <= _TOLERANCE:
        raise ArithmeticError(f"a module that was loaded differs by {gap:.1e}")
    return f"a tiny model was trained, cut and loaded again, gap {gap:.1e}"
