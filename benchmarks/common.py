"""What the benchmarks share: resumable parts and how results are written."""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from kmod.data.image_data import LabelledImages
from kmod.files import atomic_write

RESULTS = Path(__file__).parent / "results"
SUMMARY = "summary"
NUM_SAMPLES = 2000  # Of a bootstrap.


def machine() -> dict:
    """Names the machine that figures were measured on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "keras": importlib.metadata.version("keras"),
    }


def _processor():
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = (
        line.split(":")[1].strip() for line in lines if "model name" in line
    )
    return next(names, platform.processor())


def command(args: argparse.Namespace, *names: str) -> str:
    """Returns the command line that a result comes from.

    Args:
        args: The arguments of the call.
        *names: Those that change the figures.
    """
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", "--data-dir DIR"]
    for name in names:
        value = getattr(args, name)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def part(path: Path, function: Callable, *args) -> dict:
    """Runs one part and writes its figures, or reads an earlier call's.

    Args:
        path: JSON file of the part. If it exists, nothing is run.
        function: Returns a dict of figures, or `None`. Its wall-clock time is
            added as `seconds` unless it measures its own.
        *args: Arguments of `function`.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        figures = function(*args) or {}
        figures.setdefault("seconds", time.perf_counter() - start)
        _write(path, figures)
    return json.loads(path.read_text())


def in_child(function: Callable, *args) -> dict:
    """Runs a function in a process of its own, to know its memory.

    Args:
        function: Of a module's top level; returns a dict of figures.
        *args: Its arguments.

    Returns:
        The figures, and the most memory that the process held at a time,
        Python and Keras included, as `peak_mib`.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_with_peak, function, args).result()


def _with_peak(function, args):
    figures = function(*args)
    return {**figures, "peak_mib": round(peak_mib())}


def peak_mib() -> float:
    """Returns the most memory that this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def accuracy(model, images: LabelledImages, batch_size: int = 256) -> float:
    """Returns the share of images, 0 to 1, whose highest answer is right.

    Args:
        model: Keras model that answers `(batch, num_classes)`.
        images: Images with their classes.
        batch_size: Integer, images to a step.
    """
    answers = model.predict(images.images, batch_size=batch_size, verbose=0)
    return float(np.mean(answers.argmax(1) == images.labels))


def interval_of_mean(values: Sequence[float]) -> list[float]:
    """Returns the mean's bootstrap interval, 95 %: its low and high end."""
    random = np.random.default_rng(0)
    means = random.choice(values, (NUM_SAMPLES, len(values))).mean(axis=1)
    return [float(value) for value in np.percentile(means, [2.5, 97.5])]


def read_result(name: str) -> dict:
    """Reads `benchmarks/results/<name>.json`, empty if there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_result(name: str, data: dict) -> None:
    """Writes `benchmarks/results/<name>.json`."""
    _write(RESULTS / f"{name}.json", data)


def update_cells(name: str, cells: dict, command: str) -> dict:
    """Writes a result of cells, beside those of earlier calls.

    Args:
        name: Name of the result.
        cells: Figures of each cell that this call made or read, by its name.
        command: The command line of this call.

    Returns:
        All cells.
    """
    earlier = read_result(name)
    cells = dict(sorted({**earlier.get("cells", {}), **cells}.items()))
    commands = dict.fromkeys([*earlier.get("commands", []), command])
    result = {"commands": list(commands), "machine": machine(), "cells": cells}
    write_result(name, result)
    return cells


def update_summary(section: str, data: dict) -> None:
    """Merges figures into one section of `benchmarks/results/summary.json`.

    Args:
        section: Top-level key, such as `"efficiency"`.
        data: Figures. Dicts are merged key by key, at every depth.
    """
    summary = read_result(SUMMARY)
    summary[section] = _merged(summary.get(section, {}), data)
    write_result(SUMMARY, dict(sorted(summary.items())))


def _merged(old, new):
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merged(old.get(key), new[key]) for key in new}


def _write(path, data):
    atomic_write(path, json.dumps(data, indent=1) + "\n")
