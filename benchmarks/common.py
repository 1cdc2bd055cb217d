"""What the benchmarks share: resumable parts and how results are written."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kmod.files import atomic_write

RESULTS = Path(__file__).parent / "results"
SUMMARY = "summary"


def machine() -> dict:
    """Names the machine that figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(x.split(":")[1].strip() for x in lines if "model name" in x)
    return {
        "platform": platform.platform(),
        "processor": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "keras": importlib.metadata.version("keras"),
    }


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


def read_result(name: str) -> dict:
    """Reads `benchmarks/results/<name>.json`, empty if there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_result(name: str, data: dict) -> None:
    """Writes `benchmarks/results/<name>.json`."""
    _write(RESULTS / f"{name}.json", data)


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
