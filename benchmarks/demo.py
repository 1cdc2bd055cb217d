"""Runs `kmod demo` on digits, for several seeds.

    python benchmarks/demo.py [--seeds 5] [--work DIR]

Every seed's demo stays in `--work`, and a later call goes on from there.
Writes `benchmarks/results/demo-digits.json`; figures are of test images.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import machine
from common import write_result

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
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("demo-work"))
    args = parser.parse_args()
    rows = [row_of(args.work / f"seed-{s}", s) for s in range(args.seeds)]
    result = {
        "command": f"python benchmarks/demo.py --seeds {args.seeds}",
        "machine": machine(),
        "mean": {
            key: float(np.mean([row[key] for row in rows])) for key in FIGURES
        },
        "rows": rows,
    }
    write_result("demo-digits", result)
    print(json.dumps(result["mean"], indent=1))


def row_of(folder: Path, seed: int) -> dict:
    """Figures of one demo, which runs if its results are missing."""
    path = folder / "results.json"
    if not path.exists():
        kmod = [sys.executable, "-m", "kmod", "demo"]
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
