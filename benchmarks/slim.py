"""Makes whole classifiers smaller, beside what a user would do without kmod.

    python benchmarks/slim.py --data-dir DIR [--seeds 0 1 2] [--work DIR]
        [--torch-python PYTHON]

On CIFAR-10, with sources of the zoo that were trained on 10,000 images for 14
epochs, by the same images and labels:

- `all`: all ten classes at less than half of the source's multiply-accumulates,
  in 10 epochs;
- `three`: three classes, drawn by the seed, at less than a quarter of them, in
  42 epochs, which are shorter, beside the source restricted to these (the
  highest of three of its logits).

In both a student of the same architecture, narrow enough for the same
multiply-accumulates, learns the same answers and labels from random weights.
With `--torch-python`, the name of a Python that has PyTorch and Torch-Pruning,
`torch_pruning_reference.py` prunes the same network to as many
multiply-accumulates and trains it on the same images and labels for as many
seconds. Seconds are of processor time, since other jobs may run beside. The
source's training time is that of an epoch in the same process, times its
epochs. Test images are used for no choice. Finished cells are read
from `--work`, and those of other seeds from the committed results. Writes
`slim.json` and the sections `slim` and `peers` of `summary.json`.
"""

import argparse
import functools
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import twins
from ai_edge_litert.interpreter import Interpreter
from common import accuracy
from common import command
from common import interval_of_mean
from common import part
from common import update_cells
from common import update_summary
from keras import layers
from pays import EPOCHS
from pays import IMAGES
from pays import images_of
from pays import source_of
from world_sources import ALL

import kmod
from kmod.composition import teaching
from kmod.data.streaming import predict
from kmod.export import litert
from kmod.graph.sizes import model_sizes
from kmod.metrics.latency import measure_latency
from kmod.zoo.build import build

REFERENCE = Path(__file__).with_name("torch_pruning_reference.py")
LAST = "logits"
TARGETS = {"all": 0.47, "three": 0.24}
SLIM_EPOCHS = {"all": 10, "three": 42}
BATCH_SIZES = (1, 64)
LITERT_RUNS = 200
TURNS = 9
PEERS = ("slim_loss", "student_loss", "torch_loss")
LEARNING = {"augment": True, "verbose": 0}


def classes_of(kind: str, seed: int) -> list[int]:
    if kind == "all":
        return list(ALL)
    random = np.random.default_rng(seed)
    return sorted(random.choice(len(ALL), 3, replace=False).tolist())


def slimmed(args, architecture: str, kind: str, seed: int) -> dict:
    """Figures of a slim model, its source and a student."""
    keras.backend.clear_session()
    classes = classes_of(kind, seed)
    source, _ = source_of(args, architecture, ALL, seed)
    data = images_of(classes, IMAGES, args, seed)
    names = images_of(ALL, IMAGES, args, seed).class_names
    began = time.process_time()
    slim = kmod.slim(
        source,
        data,
        macs_target=TARGETS[kind],
        only=[names[index] for index in classes],
        class_names=names,
        epochs=SLIM_EPOCHS[kind],
        seed=seed,
        **LEARNING,
    )
    seconds = time.process_time() - began
    began = time.process_time()
    student = student_of(
        source, slim, data, classes, architecture, SLIM_EPOCHS[kind], seed
    )
    figures = {
        "classes": classes,
        "slim_seconds": seconds,
        "student_seconds": time.process_time() - began,
        "source_training_seconds": EPOCHS
        * epoch_seconds(args, architecture, seed),
    }
    test = twins.of_classes(data.test, classes)
    answers = predict(source, test.images)[:, classes].argmax(axis=1)
    figures["source_accuracy"] = float(np.mean(answers == test.labels))
    models = {"source": source, "slim": slim, "student": student}
    for name, model in models.items():
        sizes = model_sizes(model)
        figures[f"{name}_macs"] = sizes.macs
        figures[f"{name}_parameters"] = sizes.parameters
        if name != "source":
            figures[f"{name}_accuracy"] = accuracy(model, test)
    figures |= latencies(models)
    if args.torch_python:
        figures |= torch_pruned(args, source, data, test, figures, seed)
    return figures


def latencies(models: dict[str, keras.Model]) -> dict[str, float]:
    """Measures how long models take, in turns, in milliseconds.

    The shortest of a model's turns counts: other jobs may run beside. LiteRT
    is timed as well: Keras' `predict_on_batch` takes a third of a millisecond
    for a model that computes nothing, which is much beside networks of this
    size.
    """
    timers = {}
    for name, model in models.items():
        for size in BATCH_SIZES:
            timer = functools.partial(measure_latency, model, size)
            timers[f"{name}_ms_{size}"] = timer
        timers[f"{name}_ms_litert"] = litert_timer(model)
    turns = [
        {key: timer() for key, timer in timers.items()} for _ in range(TURNS)
    ]
    return {key: 1000 * min(turn[key] for turn in turns) for key in timers}


def litert_timer(model: keras.Model) -> Callable[[], float]:
    """Returns what measures LiteRT's time for one image, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        litert.write(model, range(model.output_shape[-1]), path)
        content = path.read_bytes()
    interpreter = Interpreter(model_content=content)
    run = interpreter.get_signature_runner(litert.SIGNATURE)
    image = np.zeros((1, *model.input_shape[1:]), "float32")

    def measure():
        seconds = []
        for _ in range(LITERT_RUNS):
            start = time.perf_counter()
            run(image=image)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    return measure


def student_of(
    source, slim, data, classes, architecture: str, epochs: int, seed: int
):
    """Trains a narrow network of the slim model's multiply-accumulates."""
    wanted = model_sizes(slim).macs
    shape = slim.input_shape[1:]
    width = math.sqrt(wanted / model_sizes(source).macs)
    keras.utils.set_random_seed(seed)
    network = build(architecture, shape, len(classes), width=width)
    network = keras.Model(network.input, network.get_layer("logits").output)
    manifest = slim.composition.manifest
    chosen = keras.ops.take(source.output, classes, axis=1)
    teacher = teaching.Teacher(
        keras.Model(source.input, chosen), "probabilities", "the source"
    )
    transfer_set = teaching.prepare_transfer_set(
        *(manifest, data, None, teacher, seed), labels=data.train.labels
    )
    training = teaching.Training(
        epochs=epochs,
        batch_size=64,
        learning_rate=0.002,
        temperature=2.0,
        seed=seed,
        callbacks=(),
        asks_anew=True,
        **LEARNING,
    )
    teaching.learn(network, transfer_set, training)
    return teaching.to_classifier(network, manifest)


def torch_pruned(args, source, data, test, figures, seed: int) -> dict:
    """Figures of Torch-Pruning on the same network, images and time."""
    classes = figures["classes"]
    arrays = {
        f"{layer.name}/{number}": weights
        for layer in source.layers
        for number, weights in enumerate(layer.get_weights())
    }
    for number in (0, 1):  # The source restricted to the classes.
        weights = arrays[f"{LAST}/{number}"]
        arrays[f"{LAST}/{number}"] = weights[..., classes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.npz"
        np.savez(
            path,
            plan=json.dumps(plan_of(source)),
            ratio=figures["slim_macs"] / figures["source_macs"],
            seconds=figures["slim_seconds"],
            threads=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())),
            seed=seed,
            images=data.train.images,
            labels=data.train.labels,
            test=test.images,
            test_labels=test.labels,
            test_answers=predict(source, test.images)[:, classes].argmax(1),
            **arrays,
        )
        done = subprocess.run(
            [args.torch_python, REFERENCE, path],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return {f"torch_{name}": found[name] for name in found}


def plan_of(model: keras.Model) -> list[dict]:
    """Describes a network of the zoo for `torch_pruning_reference.py`."""
    steps = []
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        given = layer.input if isinstance(layer.input, list) else [layer.input]
        names = [tensor._keras_history.operation.name for tensor in given]
        if isinstance(model.get_layer(names[0]), layers.InputLayer):
            names = []
        step = {"name": layer.name, "inputs": names, **_kind(layer)}
        steps.append(step | {"weights": len(layer.get_weights())})
        if layer.name == LAST:
            return steps
    raise ValueError(f"'{model.name}' has no layer {LAST!r}.")


def _kind(layer):
    if isinstance(layer, layers.Rescaling):
        return {"kind": "scale", "scale": layer.scale, "offset": layer.offset}
    if isinstance(layer, layers.MaxPooling2D):
        return {"kind": "pool", "size": layer.pool_size[0]}
    if isinstance(layer, layers.BatchNormalization):
        return {"kind": "norm", "epsilon": layer.epsilon}
    if isinstance(layer, layers.Dense):
        step = {"kind": "dense"}
        step["relu"] = layer.activation is keras.activations.relu
        before = layer.input._keras_history.operation
        if isinstance(before, layers.Flatten):
            step["image"] = before.input.shape[1:]
        return step
    kinds = {
        layers.Conv2D: "conv",
        layers.ReLU: "relu",
        layers.Add: "add",
        layers.Concatenate: "concat",
        layers.Flatten: "flatten",
        layers.GlobalAveragePooling2D: "mean",
    }
    return {"kind": kinds[type(layer)]}


def epoch_seconds(args, architecture: str, seed: int) -> float:
    """Measures the processor time of an epoch of training, the second."""
    data = images_of(ALL, IMAGES, args, seed)
    model = twins.build(architecture, (32, 32, 3), len(ALL))
    began = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: began.append(time.process_time())
    )
    twins.train_source(
        *(model, data, 3),
        batch_size=32,
        seed=seed,
        augment=True,
        verbose=0,
        callbacks=[watch],
    )
    return began[2] - began[1]


def summarise(cells: dict[str, dict]) -> dict:
    """Means over cells with intervals, for each kind."""
    summary = {}
    for kind in TARGETS:
        of_kind = [c for name, c in cells.items() if name.startswith(kind)]
        if not of_kind:
            continue
        rows = {
            "slim_loss": lambda c: c["source_accuracy"] - c["slim_accuracy"],
            "student_loss": lambda c: c["source_accuracy"]
            - c["student_accuracy"],
            "macs_ratio": lambda c: c["slim_macs"] / c["source_macs"],
            "parameters_ratio": lambda c: c["slim_parameters"]
            / c["source_parameters"],
            "latency_ratio_1": lambda c: c["slim_ms_1"] / c["source_ms_1"],
            "latency_ratio_64": lambda c: c["slim_ms_64"] / c["source_ms_64"],
            "litert_ratio": lambda c: c["slim_ms_litert"]
            / c["source_ms_litert"],
            "time_ratio": lambda c: c["slim_seconds"]
            / c["source_training_seconds"],
        }
        if all("torch_accuracy" in cell for cell in of_kind):
            rows["torch_loss"] = (
                lambda c: c["source_accuracy"] - c["torch_accuracy"]
            )
        summary[kind] = {"cells": len(of_kind)}
        for name, figure in rows.items():
            values = [figure(cell) for cell in of_kind]
            summary[kind][name] = {
                "mean": float(np.mean(values)),
                "interval": interval_of_mean(values),
            }
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--torch-python")
    parser.add_argument("--work", type=Path, default=Path("slim-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--architectures", nargs="+", default=["simcnn", "rescnn", "incecnn"]
    )
    parser.add_argument("--kinds", nargs="+", default=list(TARGETS))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    cells = {}
    for architecture in args.architectures:
        for kind in args.kinds:
            for seed in args.seeds:
                name = f"{kind}-{architecture}-{seed}"
                path = args.work / "cells" / f"{name}.json"
                given = args, architecture, kind, seed
                cells[name] = part(path, slimmed, *given)
                print(name, cells[name], flush=True)
    cells = update_cells(
        "slim", cells, command(args, "seeds", "architectures", "kinds")
    )
    summary = summarise(cells)
    update_summary("slim", summary)
    update_summary(
        "peers",
        {
            kind: {way: found[way] for way in PEERS if way in found}
            for kind, found in summary.items()
        },
    )


if __name__ == "__main__":
    main()
