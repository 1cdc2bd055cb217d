"""How long planning takes for very many modules, and what it needs.

Usage, from the root of the project:

    python benchmarks/planning.py [--stores 50] [--classes 1000] [--out DIR]

Writes stores of nothing but manifests, as large as those of a full-size
network, and times `kmod compose --dry-run` on them in processes of its own.
Writes `planning.json`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS
from common import machine

from kmod.files import atomic_write
from kmod.files import data_digest
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import ModuleRecord
from kmod.modules.manifest import ModuleSizes
from kmod.modules.manifest import SourceRecord
from kmod.modules.manifest import StoreManifest
from kmod.modules.manifest import write_store_manifest
from kmod.spec.spec_file import write_spec

NUM_RUNS = 5
MAX_SECONDS = 2
MAX_MEGABYTES = 300
KERNELS = {f"conv_{index}": 256 for index in range(13)} | {"dense": 512}
CONTRACTS = (
    InputContract((32, 32, 3), "float32", (0.0, 255.0)),
    InputContract((28, 28, 1), "float32", (0.0, 1.0)),
)


def write_stores(folder: Path, num_stores: int, num_classes: int) -> Path:
    """Writes manifests and a spec of all their classes; returns the spec."""
    stores, classes = {}, []
    for index in range(num_stores):
        name = f"store-{index}"
        names = [
            f"class {index}-{number}"
            for number in range(index, num_classes, num_stores)
        ]
        directory = folder / name
        directory.mkdir()
        write_store_manifest(directory, _manifest(name, names, index))
        stores[name] = {"path": directory}
        classes += [
            {"name": class_name, "module": {"store": name, "class": class_name}}
            for class_name in names
        ]
    data = {
        "version": 1,
        "name": "planning",
        "license": "Apache-2.0",
        "stores": stores,
        "input": {"shape": [64, 64, 3], "range": [0, 255]},
        "classes": classes,
    }
    return write_spec(data, folder / "spec.yaml").path


def _manifest(name, class_names, index):
    total = sum(KERNELS.values())
    return StoreManifest(
        source=SourceRecord(name, data_digest(name), "SimCNN"),
        class_names=tuple(class_names),
        input=CONTRACTS[index % len(CONTRACTS)],
        method="gradsplitter",
        arguments={"recipe": {f"option_{i}": i / 7 for i in range(20)}},
        kernels=KERNELS,
        data={"name": "synthetic", "version": "1.0.0", "split": "test"},
        license="MIT",
        metrics={"before": {"accuracy": 0.9}, "after": {"accuracy": 0.89}},
        modules=tuple(
            ModuleRecord(
                class_name=class_name,
                class_index=number,
                directory=f"class-{number}",
                content=data_digest([name, class_name]),
                manifest=data_digest([name, number]),
                sizes=ModuleSizes(0.25, total // 4, 5_000_000, 300_000_000),
            )
            for number, class_name in enumerate(class_names)
        ),
    )


def measure(spec: Path, num_classes: int) -> dict:
    """Plans a spec in new processes; returns seconds and peak memory."""
    command = [sys.executable, "-m", "kmod", "compose", str(spec)]
    seconds = []
    for _ in range(NUM_RUNS):
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--dry-run", "--json"], check=True, capture_output=True
        )
        seconds.append(time.perf_counter() - start)
        assert len(json.loads(done.stdout)["classes"]) == num_classes
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1024**2 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    return {
        "seconds": round(statistics.median(seconds), 2),
        "slowest_seconds": round(max(seconds), 2),
        "peak_megabytes": round(peak),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stores", type=int, default=50)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = write_stores(Path(folder), args.stores, args.classes)
        figures = measure(spec, args.classes)
    result = {
        "stores": args.stores,
        "classes": args.classes,
        **figures,
        "bars": {"seconds": MAX_SECONDS, "peak_megabytes": MAX_MEGABYTES},
        "machine": {**machine(), "load": round(os.getloadavg()[0], 1)},
    }
    text = json.dumps(result, indent=1)
    atomic_write(args.out / "planning.json", text + "\n")
    print(text)
    return int(
        figures["seconds"] > MAX_SECONDS
        or figures["peak_megabytes"] > MAX_MEGABYTES
    )


if __name__ == "__main__":
    sys.exit(main())
