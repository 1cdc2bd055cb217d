"""What modules learn from images of anything that none of them shall know.

    python benchmarks/negatives.py --data-dir DIR [--seeds 0] [--work DIR]

The modules of CIFAR-10's animals and vehicles, two sources of `worlds.py`, are
refined without negatives, with far ones (Fashion-MNIST in colour) and with near
ones: CIFAR-10 images of the *other* source's classes, which neither source has
seen. Nobody would have as near ones without labels, so they show the most that
negatives can do. All ten modules are composed by what their stores say, with
familiarity and without. Every finished part is kept under `--work`. Writes
`benchmarks/results/negatives.json`.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
import twins
import world_sources
import worlds
from common import command
from common import machine
from common import part
from common import write_result

from kmod.metrics.evaluate import roc_auc
from kmod.modules.module_store import load_store
from kmod.modules.refine import refine

KINDS = ("none", "far", "near")
IMAGES = 5000  # To refine on, of all classes together, and as many negatives.
EPOCHS = 2
TESTS = 300  # Test images of each class.
UNSEEN = 1000


def refined(args, source, other, kind: str, seed: int) -> dict:
    """Refines the modules of a source; their store is kept."""
    keras.backend.clear_session()
    data = world_sources.images_of(source, args.data_dir, seed)
    each = IMAGES // len(source.classes)
    train = twins.some(data.train, each, seed)
    store = refine(
        worlds.store_of(args, source, seed),
        _path(args, source, kind, seed),
        keras.saving.load_model(args.work / f"{source.name}-{seed}.keras"),
        (train.images, train.labels),
        (data.validation.images, data.validation.labels),
        negatives=_negatives(args, other, kind, seed),
        epochs=EPOCHS,
        seed=seed,
        verbose=0,
        overwrite=True,
    )
    return store.manifest.metrics["after"]


def _path(args, source, kind, seed):
    return args.work / "refined" / f"{source.name}-{kind}-{seed}"


def _negatives(args, other, kind, seed):
    if kind == "none":
        return None
    if kind == "far":
        fashion = world_sources.load("fashion_mnist", args.data_dir)
        return worlds.coloured_digits(fashion.train.images[:IMAGES], seed)
    images = world_sources.load(other.data, args.data_dir).train
    each = IMAGES // len(other.classes)
    unseen = twins.some(images, each, seed, skip=other.images)
    return twins.of_classes(unseen, other.classes).images.astype("float32")


def measured(args, team, kind: str, seed: int) -> dict:
    """Measures the composition of a team's refined modules."""
    keras.backend.clear_session()
    stores = [load_store(_path(args, s, kind, seed)) for s in team]
    images = worlds.team_images(team, args, "test", TESTS, seed)
    digits = world_sources.load("mnist", args.data_dir).test.images[:UNSEEN]
    noise = np.random.default_rng(seed).uniform(0, 255, (UNSEEN, 32, 32, 3))
    strangers = {
        "fashion": worlds.coloured_digits(
            world_sources.load("fashion_mnist", args.data_dir).test.images[
                :UNSEEN
            ],
            seed,
        ),
        "digits": worlds.coloured_digits(digits, seed),
        "noise": noise.astype("float32"),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        familiar = worlds.composed(stores, folder)
        blind = [worlds.without_familiarity(s, folder) for s in stores]
        blind = worlds.composed(blind, folder)
        scores, routed = (
            worlds.log_odds_of(model, images.images)
            for model in (blind, familiar)
        )
        strange = {
            name: worlds.log_odds_of(blind, each)
            for name, each in strangers.items()
        }
    owner = np.repeat([0, 1], [len(source.classes) for source in team])
    is_own = owner[images.labels][:, None] == owner
    figures = {
        "without familiarity": worlds.right(scores, images.labels),
        "with familiarity": worlds.right(routed, images.labels),
        "perfect routing": worlds.right(
            np.where(is_own, scores, -np.inf), images.labels
        ),
    }
    for number, source in enumerate(team):
        columns = owner == number
        shown = owner[images.labels] == number
        highest = scores[:, columns].max(axis=1)
        figures[source.name] = {
            "own accuracy": worlds.right(
                scores[shown][:, columns],
                images.labels[shown] - np.flatnonzero(columns)[0],
            ),
            "auroc": {
                "other source's": roc_auc(highest, shown),
                **{
                    name: _auroc(highest[shown], found[:, columns].max(axis=1))
                    for name, found in strange.items()
                },
            },
        }
    return figures


def _auroc(own, unseen):
    is_own = np.arange(len(own) + len(unseen)) < len(own)
    return roc_auc(np.concatenate([own, unseen]), is_own)


def cell(args, kind: str, seed: int) -> dict:
    team = world_sources.near()["kinds"]
    for source, other in zip(team, reversed(team)):
        part(
            args.work / "refined" / f"{source.name}-{kind}-{seed}.json",
            refined,
            args,
            source,
            other,
            kind,
            seed,
        )
    return measured(args, team, kind, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("worlds-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    for name in ("stores", "refined"):
        (args.work / name).mkdir(parents=True, exist_ok=True)
    cells = {
        kind: {
            str(seed): part(
                args.work / "negatives" / f"{kind}-{seed}.json",
                cell,
                args,
                kind,
                seed,
            )
            for seed in args.seeds
        }
        for kind in KINDS
    }
    result = {
        "command": command(args, "seeds"),
        "machine": machine(),
        "epochs": EPOCHS,
        "images": IMAGES,
        "cells": cells,
    }
    write_result("negatives", result)


if __name__ == "__main__":
    main()
