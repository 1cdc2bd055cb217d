"""What a network of the size of ResNet50 costs with a thousand classes.

    python benchmarks/thousand_classes.py [--work DIR]

Costs do not depend on what a network has learned, so it is untrained, and its
images, of 64x64 pixels, are noise. `step`: a training step of `kmod modularize`
with its defaults, with 100 and with 1,000 classes in turn, each in a process
of its own, whose most memory is noted, too. A step's time is the mean over two
changes of the masks of 1,000 classes, with its share of the updates of
importances, in a training of 77 images of each of 1,000 classes and 10 epochs.
`store`: 1,000 modules, whose masks begin in the last block and keep a tenth of
the kernels at random, are cut, compared with the masked model and stored.
`compose`: 200 of them become one classifier, which is saved, loaded and run.
Figures are wall-clock times. Every finished part is kept under `--work`.
Writes `benchmarks/results/thousand_classes.json` and its part of the section
`scale` of `benchmarks/results/summary.json`.
"""

import argparse
import math
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
from kmod.graph import channel_graph
from kmod.modular.importance import UPDATES
from kmod.modular.macs import mask_starts
from kmod.modular.macs import propose_start
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import write_spec

SHAPE = (64, 64, 3)
RANGE = (0.0, 255.0)
FEW, MANY, COMPOSED = 100, 1000, 200
MASK_FROM = "conv5_block3_1_conv"
RETENTION = 0.1
BATCH_SIZE = 64
STEPS_PER_EPOCH = 4
TOTAL_STEPS = 12_000
UPDATE = 1200  # The first step with an update of importances.
BEFORE, STEPS = 60, 42  # Steps up to the update; steps behind it are timed.
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


class Clock(keras.callbacks.Callback):
    """Notes when steps end and stops the training behind the last."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())
        self.model.stop_training = len(self.ends) > BEFORE + STEPS


def step(num_classes: int) -> dict:
    """Times steps of the search."""
    source = network(num_classes)
    start = propose_start(mask_starts(channel_graph(source), source))
    modular = ModularModel(
        source, mask_from=start.layer, retention_target=start.retention_target
    )
    modular.compile()
    draw = np.random.default_rng(0)
    images = draw.uniform(*RANGE, (STEPS_PER_EPOCH * BATCH_SIZE, *SHAPE))
    images = images.astype("float32")
    labels = draw.integers(num_classes, size=len(images))
    clock = Clock()
    modular.fit(
        images,
        labels,
        batch_size=BATCH_SIZE,
        initial_epoch=(UPDATE - BEFORE) // STEPS_PER_EPOCH,
        epochs=TOTAL_STEPS // STEPS_PER_EPOCH,
        callbacks=[clock],
        verbose=0,
    )
    times = np.diff(clock.ends)
    plain = times[BEFORE:]
    update = times[BEFORE - 2] - np.median(plain)
    return {
        "step": float(np.mean(plain) + UPDATES * update / TOTAL_STEPS),
        "median_step": float(np.median(plain)),
        "update": float(update),
        "mask_from": start.layer,
        "scores": math.prod(modular.masks.mask_scores.shape),
        "trained_weights": sum(
            math.prod(weight.shape) for weight in modular.trainable_weights
        ),
    }


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
