"""How much of well-known CNNs can be removed, and how exact cutting is.

Usage, from the root of the project:

    python benchmarks/removable_kernels.py [MODEL ...] [--out DIR] [--again]

Writes `removable_kernels.json` and `removable_kernels.md`. Models that the
JSON file holds already are not measured again without `--again`.
"""

import argparse
import functools
import json
import math
import os
import platform
from pathlib import Path

import keras
import numpy as np
from keras import applications

from kmod.files import atomic_write
from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
from kmod.zoo.build import build

RETENTIONS = (0.3, 0.6, 0.9)
NUM_CLASSES = 4
NUM_IMAGES = 8
RESULTS = Path(__file__).parent / "results"


def _zoo(name):
    return functools.partial(build, name, (32, 32, 3), NUM_CLASSES, small=False)


def _application(name, size):
    return functools.partial(
        getattr(applications, name),
        weights=None,
        classes=NUM_CLASSES,
        input_shape=(size, size, 3),
    )


MODELS = {
    "SimCNN": _zoo("simcnn"),
    "ResCNN": _zoo("rescnn"),
    "InceCNN": _zoo("incecnn"),
    "VGG16": _application("VGG16", 32),
    "ResNet50": _application("ResNet50", 64),
    "ResNet50V2": _application("ResNet50V2", 64),
    "MobileNetV2": _application("MobileNetV2", 64),
    "MobileNetV3Small": _application("MobileNetV3Small", 64),
    "DenseNet121": _application("DenseNet121", 64),
    "EfficientNetB0": _application("EfficientNetB0", 64),
    "InceptionV3": _application("InceptionV3", 75),
    "Xception": _application("Xception", 71),
    "NASNetMobile": _application("NASNetMobile", 64),
    "ConvNeXtTiny": _application("ConvNeXtTiny", 64),
}


def random_images(model: keras.Model, count: int = NUM_IMAGES) -> np.ndarray:
    """Returns the same random images at every call, values from 0 to 255.

    They are coarse, so that they still differ after pooling. What a random
    deep model answers to others than those its statistics come from can be
    anything, and depends on the last bit.
    """
    _, height, width, channels = model.input_shape
    coarse = (count, 4, 4, channels)
    coarse = np.random.default_rng(0).uniform(0, 255, coarse)
    images = keras.ops.image.resize(coarse, (height, width))
    return keras.ops.convert_to_numpy(images).astype("float32")


def randomise(model: keras.Model, seed: int = 0) -> None:
    """Gives a new model biases, affine weights and statistics to speak of.

    BatchNormalization takes the statistics of random images, so that
    activations stay in scale however deep the model is; then they are
    disturbed, so that no tensor has zero mean and unit variance.
    """
    generator = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            noise = generator.normal(0, 0.2, weight.shape)
            weight.assign(weight + noise.astype("float32"))
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(random_images(model), training=True)
    for layer, momentum in zip(norms, momenta):
        layer.momentum = momentum
        _disturb(layer, generator)


def _disturb(layer, generator):
    mean, variance = layer.moving_mean, layer.moving_variance
    shift = generator.normal(0, 0.3, mean.shape).astype("float32")
    factor = generator.uniform(0.5, 2, mean.shape).astype("float32")
    mean.assign(mean + shift * keras.ops.sqrt(variance))
    variance.assign(variance * factor)


def randomise_classes(
    modular: ModularModel, retention: float, seed: int = 0
) -> None:
    """Gives every class masks, scales, shifts, head and calibration at random.

    Scales and shifts bring the channels that masks leave back to a sane size.
    """
    generator = np.random.default_rng(seed)

    def draw(weight, mean, spread):
        values = generator.normal(mean, spread, weight.shape)
        weight.assign(values.astype("float32"))

    modular.kernel_masks = random_masks(modular, retention, generator)
    draw(modular.calibration, 1, 0.2)
    gains = [wrapper.gain for _, wrapper in modular.network.wrapped]
    gains = [gain for gain in gains if gain is not None]
    widths = [gain.shape[1] for gain in gains]
    ends = np.cumsum(widths)
    values = generator.normal(1, 0.3, (modular.num_classes, sum(widths)))
    for gain, part in zip(gains, np.split(values, ends[:-1], axis=1)):
        gain.assign(part.astype("float32"))
    for weight in modular.heads.weights:
        draw(weight, 0, 1)
    _settle(modular, generator)


def _settle(modular, generator):
    """Chooses each layer's scales and shifts by what comes in."""
    adapters = modular.network.adapters.values()
    for adapter in adapters:
        adapter.call = functools.partial(
            _settle_adapter, adapter, adapter.call, generator
        )
    modular.network(random_images(modular.flat_source), modular.masks())
    for adapter in adapters:
        del adapter.call


def _settle_adapter(adapter, call, generator, values, classes=None):
    size = rows, width = tuple(adapter.scale.shape)
    channels = np.moveaxis(values, adapter.axis, -1)
    images = len(channels) // (1 if adapter.branches else rows)
    channels = channels.reshape(
        images, -1, math.prod(channels.shape[1:-1]), width
    )
    mean, spread = channels.mean((0, 2)), channels.std((0, 2))
    scale = generator.uniform(0.5, 1, size) / np.maximum(spread, 0.1)
    adapter.scale.assign(scale.astype("float32"))
    shift = generator.normal(1, 0.3, size) - mean * scale
    adapter.shift.assign(shift.astype("float32"))
    return call(values, classes)


def random_masks(
    modular: ModularModel, retention: float, generator: np.random.Generator
) -> np.ndarray:
    """Draws kernel masks that keep each removable group with a probability."""
    place = modular.placement
    shape = (modular.num_classes, len(place.may_go))
    mask = (generator.random(shape) < retention) | ~place.may_go
    for family in place.families:
        empty = ~mask[:, family].any(axis=1)
        mask[empty, generator.choice(family)] = True
    return mask[:, modular.kernels.groups].astype("int64")


def output_gap(
    modular: ModularModel, images: np.ndarray, class_index: int | None = None
) -> tuple[float, float]:
    """Compares a cut module with the masked model.

    Args:
        modular: Modular model with its masks set.
        images: Images to compare on.
        class_index: The class. Defaults to the one whose log-odds differ most
            between images, so that they tell most: behind few kernels of a
            deep random network all images may look the same.

    Returns:
        Tuple `(gap, spread)`: the largest difference of log-odds, and how much
        they differ between images, both relative to the largest log-odds.
    """
    expected = modular.class_log_odds(images)
    if class_index is None:
        spreads = np.ptp(expected, axis=0) / np.abs(expected).max(axis=0)
        class_index = int(spreads.argmax())
    expected = expected[:, [class_index]]
    module = log_odds_model(cut_module(modular, class_index))
    answer = keras.ops.convert_to_numpy(module(images))
    gap = np.abs(answer - expected).max()
    scale = np.abs(expected).max()
    return float(gap / scale), float(np.ptp(expected) / scale)


def measure(model: keras.Model, retentions=RETENTIONS) -> dict:
    """Takes one model apart at random and returns the row of its table."""
    randomise(model)
    modular = ModularModel(model)
    modular.run_eagerly = True  # Tracing takes longer than a few images.
    images = random_images(model)
    gaps, spreads = {}, {}
    for index, retention in enumerate(retentions):
        randomise_classes(modular, retention, seed=index)
        gap, spread = output_gap(modular, images)
        gaps[str(retention)], spreads[str(retention)] = gap, spread
    kernels = modular.kernels
    return {
        "input_shape": list(model.input_shape[1:]),
        "parameters": model.count_params(),
        "kernels": kernels.num_kernels,
        "groups": kernels.num_groups,
        "removable": int(kernels.removable.sum()),
        "pins": [
            {"layer": c.kind, "reason": c.reason, "kernels": c.kernels}
            for c in modular.graph.pin_costs()
        ],
        "gaps": gaps,
        "spreads": spreads,
        "machine": machine(),
    }


def machine() -> dict:
    """Says where the figures come from."""
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }


def as_markdown(rows: dict[str, dict]) -> str:
    """Writes the table of all models measured."""
    heads = ["model", "input", "kernels", "groups", "removable", "pinned by"]
    heads += [f"gap at {retention}" for retention in RETENTIONS]
    lines = [heads, ["---"] * len(heads)]
    lines += [_cells(name, rows[name]) for name in MODELS if name in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    machines = {json.dumps(row["machine"]) for row in rows.values()}
    return (
        "# What can be removed from well-known CNNs\n\n"
        "Untrained models with random BatchNormalization statistics, cut at "
        "random masks.\n*Gap*: largest difference between the log-odds of a "
        "cut module and of the masked\nmodel, relative to the largest "
        "log-odds. Made by `benchmarks/removable_kernels.py`\non "
        f"{'; '.join(map(_machine_in_words, sorted(machines)))}.\n\n{table}\n"
    )


def _machine_in_words(machine):
    return "{platform}, {cores} cores, Keras {keras} on {backend}".format(
        **json.loads(machine)
    )


def _cells(name, row):
    pins = [
        f"{pin['layer']}: {pin['reason']} ({pin['kernels']})"
        for pin in row["pins"]
    ]
    return [
        name,
        "x".join(map(str, row["input_shape"])),
        str(row["kernels"]),
        str(row["groups"]),
        f"{row['removable'] / row['kernels']:.1%}",
        "; ".join(pins) or "nothing",
        *(f"{gap:.1e}" for gap in row["gaps"].values()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    unknown = set(args.models) - MODELS.keys()
    if unknown:
        parser.error(f"unknown {sorted(unknown)}; known are {list(MODELS)}")
    path = args.out / "removable_kernels.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.models or MODELS:
        if args.again or name not in rows:
            keras.utils.clear_session()
            keras.utils.set_random_seed(0)
            rows[name] = measure(MODELS[name]())
            atomic_write(path, json.dumps(rows, indent=1) + "\n")
        print(" | ".join(_cells(name, rows[name])), flush=True)
    atomic_write(path.with_suffix(".md"), as_markdown(rows))


if __name__ == "__main__":
    main()
