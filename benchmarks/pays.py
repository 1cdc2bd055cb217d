"""Measures reuse beside what a user would do without it.

    python benchmarks/pays.py --data-dir DIR [--seeds 0 1 2 3 4] [--work DIR]

On CIFAR-10, with networks of the zoo, whole sources as `kmod import` takes
them and 50 labelled images of each class that no model learned from:

- `others`: a weak model of ten classes that saw few images of one, and a donor
  that knows the six animals only. `kmod patch` beside what it prints of the
  ways without a patch: the bias moved, the last layer fitted again, a
  regression on what both say.
- `all`: the same weak model and a donor of all ten classes, which could take
  the weak model's place.
- `new`: a model of all ten classes from two sources that know a part of them
  each, animals and vehicles or a random half: `kmod choose` without a label
  and on 5, 20 and 50 of each class, beside a regression on the pooled features
  of both networks.

Test images are used for no choice. Finished cells are read from `--work`, and
those of other seeds from the committed results, so that seeds can be added.
Writes `pays.json` and the section `pays` of `summary.json`.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np
import twins
from common import command
from common import interval_of_mean
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result
from world_sources import ALL
from world_sources import ANIMALS
from world_sources import VEHICLES
from world_sources import load

import kmod
from kmod.composition.patched_model import build_patched
from kmod.composition.plain_ways import evaluate_ways
from kmod.data.image_data import LabelledImages
from kmod.errors import CheckError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sizes import model_sizes
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import likeliest_penalty
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.latency import measure_latency

ARCHITECTURES = ("simcnn", "rescnn")
TARGETS = (3, 4, 5, 6, 7)  # Cat, deer, dog, frog and horse.
LABELLED = 50  # Images of each class that patches are fitted on.
FEW = (0, 5, 20, 50)
SLIM_ON = (20, 50)
SLIM_EPOCHS, SLIM_RATE = 10, 3e-4  # Little is cut, and images are few.
TESTS = 500  # Images of each class that new models are tested on.
VALIDATION = 200  # That sources are validated and calibrated on.
IMAGES, EPOCHS = 1000, 14  # Of sources.
TARGET_IMAGES, WEAK_IMAGES = 40, 300
SPLITS = 5


def images_of(classes, images: int, args, seed: int, skip: int = 0):
    """What a model of some classes is trained, validated and tested on."""
    data = load("cifar10", args.data_dir)
    train = twins.some(data.train, images, seed, skip)
    validation = twins.some(data.validation, VALIDATION, seed)
    return dataclasses.replace(
        data,
        class_names=tuple(data.class_names[index] for index in classes),
        train=twins.of_classes(train, classes),
        validation=twins.of_classes(validation, classes),
    )


def source_of(args, architecture: str, classes, seed: int):
    """Returns a source and its store as it is, made if missing."""
    name = f"{architecture}-{''.join(map(str, classes))}-{seed}"
    path, store = (args.work / f"{name}{end}" for end in (".keras", ""))
    data = images_of(classes, IMAGES, args, seed)
    if not store.exists():
        model = _trained(architecture, data, seed)
        model.save(path)
        kmod.modules_from_model(
            model,
            store,
            data=data.validation,
            class_names=data.class_names,
            value_range=data.value_range,
        )
    model = keras.models.load_model(path)
    return model, kmod.load_store(store)


def _trained(architecture, data, seed):
    keras.utils.set_random_seed(seed)
    model = twins.build(architecture, (32, 32, 3), len(data.class_names))
    twins.train_source(
        model, data, EPOCHS, batch_size=32, seed=seed, augment=True, verbose=0
    )
    return model


def weak_of(args, architecture: str, target: int, seed: int):
    """Returns a model of ten classes that saw few images of the target."""
    path = args.work / f"weak-{architecture}-{target}-{seed}.keras"
    if not path.exists():
        data = images_of(ALL, WEAK_IMAGES, args, seed, skip=2500)
        labels = data.train.labels
        unused = np.flatnonzero(labels == target)[TARGET_IMAGES:]
        kept = np.setdiff1d(np.arange(len(labels)), unused)
        data = dataclasses.replace(data, train=data.train.take(kept))
        _trained(architecture, data, seed).save(path)
    return keras.models.load_model(path)


def patched(args, architecture, classes, target: int, seed: int) -> dict:
    """Figures of a patch and of what needs none, on test images."""
    keras.backend.clear_session()
    weak = weak_of(args, architecture, target, seed)
    source, store = source_of(args, architecture, classes, seed)
    data = load("cifar10", args.data_dir)
    few = twins.some(data.validation, LABELLED, seed, VALIDATION)
    figures = {}
    try:
        choice = kmod.choose_patches(
            weak,
            [kmod.Donor(store)],
            (few.images, few.labels),
            target_classes=[target],
            class_names=data.class_names,
        )
    except CheckError as error:
        return {"refused": str(error)}
    logits = rebuild(channel_graph(weak, None, (32, 32, 3)))
    model = build_patched(logits, [choice.chosen[0].fit.patch])
    found = {
        "patched": (
            evaluated(model, data.test, data.class_names),
            model,
            LABELLED,
        )
    }
    for way, evaluation in zip(
        choice.plain,
        evaluate_ways(choice.plain, data.test.images, data.test.labels),
    ):
        found[way.name] = evaluation, way.model, way.num_labelled // 10
    found["donor's source"] = None, source, 0
    for name, (evaluation, each, labelled) in found.items():
        sizes = model_sizes(each)
        figures[name] = {
            "parameters": sizes.parameters,
            "macs": sizes.macs,
            "milliseconds": 1000 * measure_latency(each),
            "labelled": labelled,
        }
        if evaluation is not None:
            figures[name] |= {
                "f1": float(evaluation.f1[target]),
                "accuracy": evaluation.accuracy,
                "others": float(evaluation.other_classes_accuracy[target]),
            }
    fit = choice.chosen[0].fit
    # What `kmod patch` says first, and whether it is right on test images: it
    # loses half a point of the best at most.
    advised = [
        way.name
        for way in choice.plain
        if choice.is_as_good(way)
        and way.sizes.macs < figures["patched"]["macs"]
    ]
    known = {
        name: each["accuracy"]
        for name, each in figures.items()
        if "accuracy" in each
    }
    best = max(known, key=known.get)
    followed = known[advised[0] if advised else "patched"]
    others = fit.comparisons["other_classes_accuracy"]
    return figures | {
        "rule": fit.patch.combine,
        "weak_share": fit.patch.weak_share,
        "others_gain_on_validation": float(others.gain),
        "advised": ", ".join(advised),
        "best": best,
        "advice_is_right": float(followed >= known[best] - 0.005),
    }


def evaluated(model, images: LabelledImages, class_names):
    answers = model.predict(images.images, batch_size=256, verbose=0)
    return evaluate_answers(images.labels, answers.argmax(1), class_names)


def halves(number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divides the classes of CIFAR-10: by kind, or at random."""
    if number == SPLITS:
        return ANIMALS, VEHICLES
    order = np.random.default_rng(number).permutation(10).tolist()
    return tuple(order[:5]), tuple(order[5:])


def new_model(args, architecture: str, number: int, seed: int) -> dict:
    """Figures of a model of all classes from two sources."""
    keras.backend.clear_session()
    parts = halves(number)
    sources, stores = zip(
        *(source_of(args, architecture, each, seed) for each in parts)
    )
    data = load("cifar10", args.data_dir)
    test = twins.some(data.test, TESTS)
    pooled = merged_features(sources)
    features = pooled.predict(test.images, batch_size=256, verbose=0)
    sizes = [model_sizes(source) for source in sources]
    figures = {
        "both_parameters": sum(each.parameters for each in sizes),
        "both_macs": sum(each.macs for each in sizes),
        "both_milliseconds": 1000 * measure_latency(pooled),
    }
    order = np.concatenate(parts)
    scores = np.concatenate(
        [
            keras.Model(
                source.input, source.get_layer("logits").output
            ).predict(test.images, batch_size=256, verbose=0)
            for source in sources
        ],
        axis=1,
    )
    is_first = np.isin(test.labels, parts[0])
    first = np.arange(10) < len(parts[0])
    known = np.where(first[None] == is_first[:, None], scores, -np.inf)
    figures["perfect"] = float(np.mean(order[known.argmax(1)] == test.labels))
    figures["side_by_side"] = float(
        np.mean(order[scores.argmax(1)] == test.labels)
    )
    for count in FEW:
        few = None
        if count:
            few = twins.some(data.validation, count, seed, VALIDATION)
            own = pooled.predict(few.images, batch_size=256, verbose=0)
            penalty = likeliest_penalty(own, few.labels)
            weights, bias = fit_scores(own, few.labels, penalty=penalty)
            answers = (features @ weights + bias).argmax(axis=1)
            figures[f"pooled_{count}"] = float(np.mean(answers == test.labels))
            few = few.images, few.labels
        with tempfile.TemporaryDirectory() as folder:
            _, spec = kmod.choose_composition(
                data.class_names, stores, few, Path(folder) / "spec.yaml"
            )
            model = kmod.compose(spec, data=few)
        found = evaluated(model, test, data.class_names)
        figures[f"choose_{count}"] = found.accuracy
        if count in SLIM_ON:
            target = figures["both_parameters"] / model_sizes(model).parameters
            slim = slimmed(model, few[0], min(target, 0.999), seed)
            found = evaluated(slim, test, data.class_names)
            figures[f"slim_{count}"] = found.accuracy
            figures[f"slim_{count}_parameters"] = model_sizes(slim).parameters
            figures[f"slim_{count}_macs"] = model_sizes(slim).macs
    own = model_sizes(model)
    return figures | {
        "choose_parameters": own.parameters,
        "choose_macs": own.macs,
        "choose_milliseconds": 1000 * measure_latency(model),
    }


def slimmed(model, images, target: float, seed: int):
    """A model with no more parameters than a multiple of its own."""
    return kmod.slim(
        model,
        images,
        parameters_target=target,
        epochs=SLIM_EPOCHS,
        learning_rate=SLIM_RATE,
        seed=seed,
        verbose=0,
    )


def merged_features(sources) -> keras.Model:
    """The pooled features of two networks, side by side."""
    image = keras.Input((32, 32, 3))
    found = [
        keras.Model(source.input, source.get_layer("logits").input)(image)
        for source in sources
    ]
    return keras.Model(image, keras.layers.Concatenate()(found))


def all_cells(args) -> dict[str, dict[str, dict]]:
    """Runs the cells of the seeds given; finished ones are read."""
    cells = read_result("pays").get("cells", {})
    for seed in args.seeds:
        for architecture in args.architectures:
            for name, function, *given in _of_seed(args, architecture, seed):
                path = args.work / "cells" / f"{name}.json"
                found = part(path, function, args, *given)
                cells.setdefault(name.partition("-")[0], {})[name] = found
                print(name, found, flush=True)
    return cells


def _of_seed(args, architecture, seed):
    end = f"{architecture}-{seed}"
    for target in TARGETS:
        for kind, classes in (("others", ANIMALS), ("all", ALL)):
            if kind in args.kinds:
                given = architecture, classes, target, seed
                yield f"{kind}-{target}-{end}", patched, *given
    if "new" in args.kinds:
        # The kinds with every seed, each random half with one of them.
        for number in (SPLITS, seed % SPLITS):
            yield f"new-{number}-{end}", new_model, architecture, number, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("pays-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument(
        "--architectures", nargs="+", default=list(ARCHITECTURES)
    )
    kinds = ["others", "all", "new"]
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    earlier = read_result("pays").get("commands", [])
    own = command(args, "seeds", "architectures", "kinds")
    cells = all_cells(args)
    summary = {kind: means_of(own) for kind, own in cells.items()}
    write_result(
        "pays",
        {
            "commands": sorted({*earlier, own}),
            "machine": machine(),
            "summary": summary,
            "cells": cells,
        },
    )
    update_summary(
        "pays",
        {
            kind: {
                key: value["mean"] if isinstance(value, dict) else value
                for key, value in own.items()
            }
            for kind, own in summary.items()
        },
    )


def means_of(cells: dict[str, dict]) -> dict:
    """Means over the cells of one kind, with bootstrap intervals."""
    found = [_flat(each) for each in cells.values() if "refused" not in each]
    keys = set.intersection(*map(set, found)) if found else ()
    return {
        "cells": len(cells),
        "refused": len(cells) - len(found),
    } | {
        key: {
            "mean": float(np.mean([each[key] for each in found])),
            "interval": interval_of_mean([each[key] for each in found]),
        }
        for key in sorted(keys)
    }


def _flat(figures, prefix=""):
    flat = {}
    for key, value in figures.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}: ")
        elif not isinstance(value, str) and key != "seconds":
            flat[prefix + key] = value
    return flat


if __name__ == "__main__":
    main()
