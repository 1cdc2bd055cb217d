"""What a thousand classes cost.

    python benchmarks/thousand_classes.py [--work DIR]

Costs do not depend on what a network has learned, so networks are untrained.
`step`: a training step of `kmod modularize` with its defaults, of a ResNet50 of
64x64 images that are noise, with 100 and with 1,000 classes in turn, each in a
process of its own, whose most memory is noted, too. A step's time is the mean
over two changes of the masks of 1,000 classes, with its share of the updates of
importances, in a training of 77 images of each of 1,000 classes and 10 epochs.
`small`: 1,000 modules of a small SimCNN, whose kernels are kept at random, are
cut, compared with the masked model and stored; 200 of them become one
classifier, which is saved, loaded and run. `large`: the same with 20 modules
of the ResNet50, all composed, for what one of its modules takes. `many`: 200
modules of it that keep 5 % of the kernels that can be removed, all composed.
A thousand such modules would cost ten times what their source does; the
default options of `kmod modularize` aim at once.
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
from common import peak_mib
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
from kmod.zoo.build import build

SHAPE = (64, 64, 3)
RANGE = (0.0, 255.0)
FEW, MANY = 100, 1000
# What is cut: network, shape, modules, share of kernels, modules composed.
CUT = {
    "small": ("simcnn", (32, 32, 3), 1000, 0.4, 200),
    "large": ("resnet50", SHAPE, 20, 0.4, 20),
    "many": ("resnet50", SHAPE, 200, 0.05, 200),
}
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
    cut = {
        size: {
            "store": part(
                work / f"store-{size}.json", in_child, store, work, size
            ),
            "compose": part(
                work / f"compose-{size}.json",
                in_child,
                compose_some,
                work,
                size,
            ),
        }
        for size in CUT
    }
    few, many = (
        {key: min(run[key] for run in runs) for key in ("step", "peak_mib")}
        for runs in steps.values()
    )
    figures = {
        "step_ratio": many["step"] / few["step"],
        "memory_ratio": many["peak_mib"] / few["peak_mib"],
        "step_seconds": {str(FEW): few["step"], str(MANY): many["step"]},
        "step_mib": {str(FEW): few["peak_mib"], str(MANY): many["peak_mib"]},
        **cut,
    }
    facts = {
        "command": "python benchmarks/thousand_classes.py",
        "machine": machine(),
        "runs": {str(key): runs for key, runs in steps.items()},
    }
    write_result("thousand_classes", {**facts, **figures})
    update_summary("scale", {"thousand_classes": figures})
    print(figures)


def network(name: str, shape: tuple, num_classes: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    if name != "resnet50":
        return build(name, shape, num_classes)
    return keras.applications.ResNet50(
        weights=None, input_shape=shape, classes=num_classes
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
    source = network("resnet50", SHAPE, num_classes)
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


def store(work: Path, size: str) -> dict:
    """Cuts and stores modules of random kernels."""
    name, shape, count, retention, _ = CUT[size]
    source = network(name, shape, count)
    start = propose_start(mask_starts(channel_graph(source), source))
    modular = ModularModel(source, mask_from=start.layer, value_range=RANGE)
    place = modular.placement
    draw = np.random.default_rng(0)
    keeps = draw.random((count, len(place.may_go))) < retention
    keeps[:, ~place.may_go] = True
    for family in place.families:  # None may lose all.
        keeps[:, family[0]] = True
    modular.kernel_masks = keeps[:, modular.kernels.groups]
    start = time.perf_counter()
    decompose(modular, work / size, overwrite=True)
    seconds = time.perf_counter() - start
    files = [p for p in (work / size).rglob("*") if p.is_file()]
    mib = sum(path.stat().st_size for path in files) / 2**20
    return {"seconds": seconds, "modules": count, "mib": mib}


def compose_some(work: Path, size: str) -> dict:
    """Composes modules, saves and loads the model and lets both answer."""
    _, shape, _, _, count = CUT[size]
    names = load_store(work / size).class_names
    names = names[:: len(names) // count]
    spec = {
        "version": 1,
        "name": "some",
        "stores": {"source": {"path": work.absolute() / size}},
        "classes": [
            {"name": name, "module": {"store": "source", "class": name}}
            for name in names
        ],
    }
    path = write_spec(spec, work / f"{size}.yaml").path
    times, mib = {}, {}
    start = time.perf_counter()
    model = compose(path)
    times["compose"] = time.perf_counter() - start
    mib["compose"] = round(peak_mib())
    save(model, work / f"{size}-composed", overwrite=True)
    times["save"] = time.perf_counter() - start - times["compose"]
    mib["save"] = round(peak_mib())
    start = time.perf_counter()
    loaded = load(work / f"{size}-composed")
    times["load"] = time.perf_counter() - start
    images = np.random.default_rng(0).uniform(*RANGE, (64, *shape))
    answers = [each.predict(images, verbose=0) for each in (model, loaded)]
    convolutions = [
        layer
        for layer in loaded.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    return {
        "seconds": times,
        "peak_mib_until": mib,
        "modules": len(names),
        "layers": len(loaded.layers),
        "convolutions": len(convolutions),
        "equal_when_loaded": bool(np.array_equal(*answers)),
    }


if __name__ == "__main__":
    main()
