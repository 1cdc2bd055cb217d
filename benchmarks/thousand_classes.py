"""What a network of the size of ResNet50 costs with a thousand classes.

    python benchmarks/thousand_classes.py [--work DIR]

Costs do not depend on what a network has learned, so it is untrained and each
class keeps a tenth of the kernels at random. `step`: a training step of the
search, with 100 and with 1,000 classes in turn, each in a process of its own,
of which the least and most memory is noted, too. `store`: 1,000 modules are
cut, compared with the masked model and stored. `compose`: 200 of them become
one classifier, which is saved, loaded and run. Images have 64x64 pixels.
Figures are wall-clock times. Every finished part is kept under `--work`.
Writes `benchmarks/results/thousand_classes.json` and its part of the section
`scale` of `benchmarks/results/summary.json`.
"""

import argparse
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from common import in_child
from common import machine
from common import part
from common import update_summary
from common import write_result

from kmod.composition.composer import compose
from kmod.composition.saving import load
from kmod.composition.saving import save
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import write_spec

SHAPE = (64, 64, 3)
RANGE = (0.0, 255.0)
FEW, MANY, COMPOSED = 100, 1000, 200
MASK_FROM = "conv5_block3_1_conv"
RETENTION = 0.1
RETENTION_TARGET = 0.97  # Of all kernels, most of which lie in the stem.
BATCH_SIZE = 32
STEPS = 4  # To a run; the first of a process is not counted.
RUNS = 5
ROUNDS = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("thousand-work"))
    work = parser.parse_args().work
    steps = {FEW: [], MANY: []}
    for number in range(ROUNDS):
        for num_classes, found in steps.items():
            path = work / f"step-{num_classes}-{number}.json"
            found.append(part(path, in_child, step, num_classes))
    stored = part(work / "store.json", in_child, store, work)
    composed = part(work / "compose.json", in_child, compose_some, work)
    few, many = (
        {key: min(run[key] for run in runs) for key in ("step", "peak_mib")}
        for runs in steps.values()
    )
    figures = {
        "step_ratio": many["step"] / few["step"],
        "memory_ratio": many["peak_mib"] / few["peak_mib"],
        "step_seconds": {str(FEW): few["step"], str(MANY): many["step"]},
        "step_mib": {str(FEW): few["peak_mib"], str(MANY): many["peak_mib"]},
        "store": stored,
        "compose": composed,
    }
    facts = {
        "command": "python benchmarks/thousand_classes.py",
        "machine": machine(),
        "runs": {str(key): runs for key, runs in steps.items()},
    }
    write_result("thousand_classes", {**facts, **figures})
    update_summary("scale", {"thousand_classes": figures})
    print(figures)


def network(num_classes: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.applications.ResNet50(
        weights=None, input_shape=SHAPE, classes=num_classes
    )


def step(num_classes: int) -> dict:
    """Times steps of the search; the median of all runs but the first."""
    modular = ModularModel(
        network(num_classes),
        mask_from=MASK_FROM,
        retention_target=RETENTION_TARGET,
    )
    modular.compile()
    draw = np.random.default_rng(0)
    images = draw.uniform(*RANGE, (STEPS * BATCH_SIZE, *SHAPE))
    images = images.astype("float32")
    labels = draw.integers(num_classes, size=len(images))
    times = []
    for _ in range(1 + RUNS):
        start = time.perf_counter()
        modular.fit(images, labels, batch_size=BATCH_SIZE, verbose=0)
        times.append((time.perf_counter() - start) / STEPS)
    return {"step": statistics.median(times[1:])}


def store(work: Path) -> dict:
    """Cuts and stores all modules."""
    modular = ModularModel(
        network(MANY), mask_from=MASK_FROM, value_range=RANGE
    )
    draw = np.random.default_rng(0)
    masks = modular.kernel_masks
    modular.kernel_masks = draw.random(masks.shape) < RETENTION
    start = time.perf_counter()
    decompose(modular, work / "store", overwrite=True)
    seconds = time.perf_counter() - start
    files = [p for p in (work / "store").rglob("*") if p.is_file()]
    size = sum(path.stat().st_size for path in files)
    return {"seconds": seconds, "modules": MANY, "mib": size / 2**20}


def compose_some(work: Path) -> dict:
    """Composes some modules, saves and loads the model and lets it answer."""
    names = load_store(work / "store").class_names[:: MANY // COMPOSED]
    spec = {
        "version": 1,
        "name": "some",
        "stores": {"source": {"path": work.absolute() / "store"}},
        "classes": [
            {"name": name, "module": {"store": "source", "class": name}}
            for name in names
        ],
    }
    path = write_spec(spec, work / "some.yaml").path
    times = {}
    start = time.perf_counter()
    model = compose(path)
    times["compose"] = time.perf_counter() - start
    save(model, work / "some", overwrite=True)
    times["save"] = time.perf_counter() - start - times["compose"]
    start = time.perf_counter()
    loaded = load(work / "some")
    times["load"] = time.perf_counter() - start
    images = np.random.default_rng(0).uniform(*RANGE, (64, *SHAPE))
    answers = [each.predict(images, verbose=0) for each in (model, loaded)]
    convolutions = [
        layer
        for layer in loaded.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    return {
        "seconds": times,
        "modules": len(names),
        "layers": len(loaded.layers),
        "convolutions": len(convolutions),
        "equal_when_loaded": bool(np.array_equal(*answers)),
    }


if __name__ == "__main__":
    main()
