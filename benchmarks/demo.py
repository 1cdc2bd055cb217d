"""Runs `kmod demo`, for several seeds.

    python benchmarks/demo.py [--seeds 5] [--work DIR]
    python benchmarks/demo.py --data cifar10 --data-dir DIR --seeds 1

Every seed's demo stays in `--work`, and a later call goes on from there.
Writes `benchmarks/results/demo-digits.json`, or that of the data; figures are
of test images.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import command
from common import machine
from common import write_result

from kmod.demo.settings import SETTINGS

FIGURES = (
    "source_accuracy",
    "composed_accuracy",
    "retention_rate",
    "macs_ratio",
    "composed_macs_ratio",
    "max_output_gap",
)
PATCH = (
    "target_class",
    "before",
    "after",
    "accuracy",
    "other_classes_accuracy",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(SETTINGS), default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("demo-work"))
    args = parser.parse_args()
    rows = [row_of(args, seed) for seed in range(args.seeds)]
    result = {
        "command": command(args, "data", "seeds"),
        "machine": machine(),
        "mean": {
            key: float(np.mean([row[key] for row in rows])) for key in FIGURES
        },
        "rows": rows,
    }
    write_result(f"demo-{args.data}", result)
    print(json.dumps(result["mean"], indent=1))


def row_of(args: argparse.Namespace, seed: int) -> dict:
    """Figures of one demo, which runs if its results are missing."""
    folder = args.work / f"{args.data}-{seed}"
    path = folder / "results.json"
    if not path.exists():
        kmod = [sys.executable, "-m", "kmod", "demo", "--data", args.data]
        if args.data_dir:
            kmod += ["--data-dir", args.data_dir]
        subprocess.run(
            [*kmod, "--seed", str(seed), "--out", folder], check=True
        )
    found = json.loads(path.read_text())
    return {
        "seed": seed,
        **{key: found[key] for key in FIGURES},
        "patch": {key: found["patch"][key] for key in PATCH},
        "seconds": sum(found["seconds"].values()),
    }


if __name__ == "__main__":
    main()
