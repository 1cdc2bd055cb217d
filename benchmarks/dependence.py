"""Measures whether `kmod dependence` foresees what an exchange costs.

    python benchmarks/dependence.py --data-dir DIR [--seeds 0 1] [--work DIR]

On two data sets, with two networks of the zoo and a source of each seed, taken
as it is; each learned from images that it drew itself. In the classifier that
the modules of one source make, the module of every class is exchanged for that
of every other source of the data set, with the calibration that stores have.
What that loses on test images is compared, class by class, with what was
foreseen on validation images without the other source, and with simpler
guesses. Likenesses are compared by validation images alone. Beside it stands
what is lost if the classes that are to move together do so. Finished parts are
read from `--work`. Writes `dependence.json` and the section `dependence` of
`summary.json`.
"""

import argparse
import dataclasses
from pathlib import Path

import keras
import numpy as np
import twins
from common import NUM_SAMPLES
from common import command
from common import machine
from common import part
from common import update_summary
from common import write_result
from scipy.stats import spearmanr
from world_sources import ALL
from world_sources import load

import kmod
from kmod.analysis.dependence import LIMIT
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.exchange import ABSENT
from kmod.metrics.exchange import LIKENESS
from kmod.metrics.exchange import exchange_cost
from kmod.metrics.exchange import expected_exchange_cost
from kmod.metrics.exchange import worst_confused
from kmod.patching.donors import module_answers
from kmod.spec.model import build_spec
from kmod.zoo.build import build
from kmod.zoo.train import train_source

IMAGES, VALIDATION = 1000, 200  # Of each class, that sources learn from.
COMPARED = 256  # Images that composed models answer as well.
LIKENESSES = (0.5, 0.7, 0.8, 0.9)
LOSSES = ("accuracy", "others", "f1", "broken")
MARGIN = 1.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the sources of a cell are trained."""

    width: float
    epochs: int
    batch_size: int
    augment: bool


RECIPES = {
    ("cifar10", "simcnn"): Recipe(1.0, 14, 32, True),
    ("cifar10", "rescnn"): Recipe(0.5, 5, 64, True),
    ("fashion_mnist", "simcnn"): Recipe(1.0, 3, 64, False),
    ("fashion_mnist", "rescnn"): Recipe(0.5, 4, 64, False),
}


def images_of(args, name: str, seed: int):
    """What a source is trained, validated and tested on."""
    data = load(name, args.data_dir)
    return dataclasses.replace(
        data,
        train=twins.some(data.train, IMAGES, seed),
        validation=twins.some(data.validation, VALIDATION, seed),
    )


def store_of(args, name: str, architecture: str, seed: int) -> kmod.ModuleStore:
    """Returns the modules of a source, made if missing."""
    path = args.work / f"{name}-{architecture}-{seed}"
    if not path.exists():
        keras.backend.clear_session()
        recipe = RECIPES[name, architecture]
        data = images_of(args, name, seed)
        keras.utils.set_random_seed(seed)
        shape = data.train.images.shape[1:]
        model = build(architecture, shape, len(ALL), width=recipe.width)
        train_source(
            *(model, data, recipe.epochs),
            batch_size=recipe.batch_size,
            seed=seed,
            augment=recipe.augment,
            verbose=0,
        )
        kmod.modules_from_model(
            model,
            path,
            data=data.validation,
            class_names=data.class_names,
            value_range=data.value_range,
        )
    return kmod.load_store(path)


def scores_of(args, name: str, architecture: str, seed: int) -> dict:
    """What a source's modules say of validation and test images."""
    store = store_of(args, name, architecture, seed)
    data = load(name, args.data_dir)
    found = {}
    for split in ("validation", "test"):
        images = data.images_of(split)
        answers = module_answers([store[c] for c in store], images.images)
        log_odds = [each.log_odds for each in answers]
        found[split] = np.stack(log_odds, axis=1)
        found[f"{split}_labels"] = images.labels
    return found


def guesses(scores: np.ndarray, labels: np.ndarray, index: int) -> dict:
    """What is foreseen of an exchange, and simpler guesses."""
    found = {}
    for likeness in LIKENESSES:
        cost = expected_exchange_cost(scores, labels, index, likeness=likeness)
        found[f"likeness {likeness}"] = {
            key: getattr(cost, key) for key in LOSSES
        }
    names = [str(each) for each in ALL]
    f1 = evaluate_answers(labels, scores.argmax(axis=1), names).f1[index]
    absent = np.full(len(labels), ABSENT)
    gain = -exchange_cost(scores, labels, index, absent).others
    best = np.argsort(scores, axis=1)[:, -2:]
    high = np.take_along_axis(scores, best, axis=1)
    is_near = (best == index).any(axis=1) | (labels == index)
    is_near &= high[:, 1] - high[:, 0] < MARGIN
    others = {
        "1 - F1": 1 - f1,
        "gain of the others without it": gain,
        "images of a small margin": is_near.mean(),
    }
    for key, value in others.items():
        found[key] = dict.fromkeys(LOSSES, float(value))
    return found


def partners_of(scores, labels, index: int) -> list[int]:
    """The classes that `Dependence` would move together with one."""
    cost = expected_exchange_cost(scores, labels, index)
    if cost.accuracy <= LIMIT:
        return []
    return worst_confused(cost.confused, index).tolist()


def source(args, name: str, architecture: str, seed: int) -> dict:
    """Foreseen and real losses of every class of one source."""
    own = _scores(args, name, architecture, seed)
    others = [
        (other, number, _scores(args, name, other, number))
        for data, other in RECIPES
        for number in args.seeds
        if data == name and (other, number) != (architecture, seed)
    ]
    classes = []
    for index in ALL:
        figures = {
            "foreseen": guesses(
                own["validation"], own["validation_labels"], index
            ),
            "partners": partners_of(
                own["validation"], own["validation_labels"], index
            ),
            "together": [],
        }
        for split in ("validation", "test"):
            scores, labels = own[split], own[f"{split}_labels"]
            figures[split] = []
            for _, _, other in others:
                cost = exchange_cost(
                    scores, labels, index, other[split][:, index]
                )
                figures[split].append({k: getattr(cost, k) for k in LOSSES})
        scores, labels = own["test"], own["test_labels"]
        before = np.mean(scores.argmax(axis=1) == labels)
        for _, _, other in others:
            moved = [index, *figures["partners"]]
            changed = np.array(scores)
            changed[:, moved] = other["test"][:, moved]
            after = np.mean(changed.argmax(axis=1) == labels)
            figures["together"].append(float(before - after))
        classes.append(figures)
    right = own["test"].argmax(axis=1) == own["test_labels"]
    return {
        "accuracy": float(right.mean()),
        "replacements": [f"{other}-{number}" for other, number, _ in others],
        "classes": classes,
    }


def _scores(args, name, architecture, seed):
    path = args.work / "scores" / f"{name}-{architecture}-{seed}.npz"
    return twins.arrays(path, scores_of, args, name, architecture, seed)


def composed_agreement(args) -> dict:
    """Whether `kmod.compose` answers as scores put side by side say."""
    (name, architecture), *_ = RECIPES
    sources = [(architecture, seed) for seed in args.seeds[:2]]
    stores = [store_of(args, name, *each) for each in sources]
    names = tuple(stores[0])
    spec = build_spec(
        {
            "version": 1,
            "name": "exchanged",
            "stores": {
                key: {"path": str(store.path)}
                for key, store in zip(("own", "new"), stores)
            },
            "classes": [
                {
                    "name": each,
                    "module": {
                        "store": "own" if index else "new",
                        "class": each,
                    },
                }
                for index, each in enumerate(names)
            ],
        },
        args.work / "exchanged.yaml",
    )
    images = load(name, args.data_dir).test.images[:COMPARED]
    own, new = (
        _scores(args, name, *each)["test"][:COMPARED] for each in sources
    )
    scores = np.concatenate([new[:, :1], own[:, 1:]], axis=1)
    answers = kmod.compose(spec).predict(images, verbose=0).argmax(axis=1)
    return {"same": float(np.mean(answers == scores.argmax(axis=1)))}


def of_network(cells: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Keeps the exchanges for modules of another source of the same network."""
    return {
        key: [_kept(each, key.rpartition("-")[2]) for each in own]
        for key, own in cells.items()
    }


def _kept(source, architecture):
    names = source["replacements"]
    rows = [
        row
        for row, name in enumerate(names)
        if name.rpartition("-")[0] == architecture
    ]
    classes = [
        figures
        | {
            key: [figures[key][row] for row in rows]
            for key in ("validation", "test", "together")
        }
        for figures in source["classes"]
    ]
    kept = {"replacements": [names[row] for row in rows], "classes": classes}
    return source | kept


def by_class(sources: list[dict], read) -> np.ndarray:
    """Means over the sources of a cell, for each class."""
    return np.array(
        [
            np.mean([read(each["classes"][index]) for each in sources])
            for index in ALL
        ]
    )


def summarise(cells: dict[str, list[dict]]) -> dict:
    """Rank correlations over all classes, and of the cells by themselves."""
    methods = next(iter(cells.values()))[0]["classes"][0]["foreseen"]
    found = {}
    for loss in LOSSES:
        real = {
            split: [
                by_class(
                    own, lambda c: np.mean([each[loss] for each in c[split]])
                )
                for own in cells.values()
            ]
            for split in ("validation", "test")
        }
        found[loss] = {"mean": float(np.mean(real["test"]))}
        for method in methods:
            foreseen = [
                by_class(own, lambda c: c["foreseen"][method][loss])
                for own in cells.values()
            ]
            own = _correlated(foreseen, real["test"])
            own["validation"] = _rank(foreseen, real["validation"])
            own["mean"] = float(np.mean(foreseen))
            found[loss][method] = own
        found[loss]["real, on validation images"] = _correlated(
            real["validation"], real["test"]
        )
    found["moved"] = _moved(cells)
    return found


def _rank(foreseen, real):
    return float(spearmanr(np.concatenate(foreseen), np.concatenate(real))[0])


def _correlated(foreseen, real):
    random = np.random.default_rng(0)
    first, second = np.concatenate(foreseen), np.concatenate(real)
    drawn = [
        spearmanr(first[rows], second[rows])[0]
        for rows in random.integers(0, len(first), (NUM_SAMPLES, len(first)))
    ]
    return {
        "test": _rank(foreseen, real),
        "interval": np.nanpercentile(drawn, [2.5, 97.5]).tolist(),
        "by_cell": [_rank([a], [b]) for a, b in zip(foreseen, real)],
    }


def _moved(cells):
    """Losses of classes with and without partners, alone and together."""
    groups = {"alone": [], "partnered": []}
    together = []
    for own in (each for sources in cells.values() for each in sources):
        for figures in own["classes"]:
            loss = np.mean([each["accuracy"] for each in figures["test"]])
            kind = "partnered" if figures["partners"] else "alone"
            groups[kind].append(loss)
            if figures["partners"]:
                together.append(np.mean(figures["together"]))
    return {
        "safe": len(groups["alone"]),
        "partnered": len(groups["partnered"]),
        "loss_of_safe": _mean(groups["alone"]),
        "loss_of_partnered": _mean(groups["partnered"]),
        "loss_together": _mean(together),
    }


def _mean(values):
    return float(np.mean(values)) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("dependence-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    if len(set(args.seeds)) < 2:
        parser.error("argument --seeds: at least two, to exchange modules")
    args.work.mkdir(parents=True, exist_ok=True)
    cells = {}
    # What a cell has depends on all seeds.
    numbers = "-".join(map(str, args.seeds))
    for name, architecture in RECIPES:
        for seed in args.seeds:
            key = f"{name}-{architecture}"
            path = args.work / "cells" / f"{key}-{seed}-of-{numbers}.json"
            given = args, name, architecture, seed
            cells.setdefault(key, []).append(part(path, source, *given))
            print(key, seed, cells[key][-1]["accuracy"], flush=True)
    path = args.work / "cells" / f"composed-of-{numbers}.json"
    summary = {
        "classes": len(cells) * len(ALL),
        "limit": LIMIT,
        "same": summarise(of_network(cells)),
        "any": summarise(cells),
    }
    summary["composed"] = part(path, composed_agreement, args)["same"]
    write_result(
        "dependence",
        {
            "command": command(args, "seeds"),
            "machine": machine(),
            "likeness": LIKENESS,
            "recipes": {
                "-".join(key): dataclasses.asdict(recipe)
                for key, recipe in RECIPES.items()
            },
            "summary": summary,
            "cells": cells,
        },
    )
    update_summary("dependence", shortened(summary))


def shortened(summary: dict) -> dict:
    """Leaves out single cells, and the likenesses that are not the default."""
    others = {f"likeness {each}" for each in LIKENESSES if each != LIKENESS}
    short = dict(summary)
    for kind in ("same", "any"):
        short[kind] = {"moved": summary[kind]["moved"]} | {
            loss: {
                method: (
                    {key: own[key] for key in ("test", "interval")}
                    if isinstance(own, dict)
                    else own
                )
                for method, own in summary[kind][loss].items()
                if method not in others
            }
            for loss in LOSSES
        }
    return short


if __name__ == "__main__":
    main()
