"""Composes a more accurate model of the best modules of uneven sources.

    python benchmarks/more_accurate.py --data-dir DIR [--seeds 3] [--work DIR]

Every source model learned an uneven part of the same pool of images. For each
class the best module among the sources is chosen on 50 labelled images of each
class, which calibrate the chosen modules as well; other modules of the same
sources may support them. The modules alone, teams of up to two of them for each
class, and a calibration of each class by itself, are other ways.
Compared, on test images,
with the best single source model (chosen on the same 50 images), with the soft
vote of all sources, and with the best source on the test images themselves.
The papers choose on a fifth of the test images and measure on the rest: a
column of its own.

One row for each data set and architecture, and one of all architectures
together. Writes `more_accurate.json` and `more_accurate.csv`.
"""

import argparse

import numpy as np
import patching_rows
import reuse_sources
from common import command
from common import machine
from common import update_summary
from common import write_result
from reuse_sources import Pool
from twins import SourceSettings

from kmod.reuse.separation import best_columns
from kmod.reuse.separation import teams
from kmod.reuse.support import support_options

# The digits' sources have few images, to be as weak as the paper's of SVHN.
POOLS = {
    "cifar10": reuse_sources.POOLS["cifar10"],
    "mnist": Pool(60, SourceSettings(30, batch_size=32), 0.5, 1, ("mnist",)),
}
# Modules for each class, at most, how they are calibrated, and whether they are
# without other modules that support them.
WAYS = {
    "composed": (1, "joint", False),
    "alone": (1, "joint", True),
    "team": (2, "joint", True),
    "fit": (1, "fit", True),
}
ALL = "all"


def row_of(args, name: str, architecture: str, sources: list[dict]) -> dict:
    """Figures of one data set and architecture on test images."""
    few, test = (
        found.labels
        for found in (
            reuse_sources.few_images(name, args.data_dir),
            reuse_sources.test_images(
                name, args.data_dir, reuse_sources.TEST_OWN
            ),
        )
    )

    def answers(split, key):
        return np.stack([s[f"{name}_{split}_{key}"] for s in sources])

    values = {
        (split, key): answers(split, key)
        for split in ("few", "test")
        for key in ("log_odds", "logits")
    }
    logits = values["test", "logits"]
    single = np.mean(logits.argmax(axis=2) == test, axis=1)
    ours = gain_of(
        (values["few", "log_odds"], values["few", "logits"], few),
        (values["test", "log_odds"], logits, test),
    )
    first = np.isin(np.arange(len(test)), _first_fifth(test))
    papers = gain_of(
        *(
            (values["test", "log_odds"][:, own], logits[:, own], test[own])
            for own in (first, ~first)
        )
    )
    return {
        "data": name,
        "architecture": architecture,
        "sources": len(sources),
        **ours,
        "best_source_on_test": float(single.max()),
        "mean_source": float(single.mean()),
        "soft_vote": float(np.mean(_vote(logits) == test)),
        "papers_split_composed": papers["composed"],
        "papers_split_best_source": papers["best_source"],
    }


def _first_fifth(labels):
    order = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([own[: len(own) // 5] for own in order])


def gain_of(few, test) -> dict:
    """Accuracy of composed modules and of the best single source.

    Args:
        few: Log-odds and logits `(sources, n, classes)` of labelled images,
            and their labels.
        test: The same of the images to measure on.
    """
    on_few = np.mean(few[1].argmax(axis=2) == few[2], axis=1)
    best = test[1][on_few.argmax()].argmax(axis=1)
    found = {"best_source": float(np.mean(best == test[2]))}
    for name, way in WAYS.items():
        answers, chosen = compose(few[0], few[2], test[0], *way)
        found[name] = float(np.mean(answers == test[2]))
        found[f"{name}_sources"] = len({n for team in chosen for n in team})
    return found


def compose(few_scores, few, test_scores, largest, calibration, alone):
    """Chooses and calibrates modules; returns answers and the choice.

    Args:
        few_scores: Log-odds `(sources, n, classes)` of labelled images.
        few: Their labels.
        test_scores: Log-odds `(sources, m, classes)` of test images.
        largest: Modules for each class, at most.
        calibration: `"joint"` or `"fit"`, as in a spec.
        alone: Whether no other modules of the same sources may support them.
    """
    classes = range(few_scores.shape[2])
    own, new = (
        [teams(dict(enumerate(each[:, :, c])), largest) for c in classes]
        for each in (few_scores, test_scores)
    )
    chosen = best_columns(own, few)
    own, new = (
        np.stack([each[team] for each, team in zip(found, chosen)], axis=1)
        for found in (own, new)
    )
    if not alone:
        more = [_further(each, chosen) for each in (few_scores, test_scores)]
        own, new = reuse_sources.with_support(own, new, *more, few)
    weights, bias = reuse_sources.layer_of(own, few, calibration)
    return (new @ weights + bias).argmax(axis=1), chosen


def _further(scores, chosen):
    """Returns what the other modules of the chosen sources say."""
    own = {(team[0], c) for c, team in enumerate(chosen) if len(team) == 1}
    others = (
        (number, index)
        for number in sorted({number for team in chosen for number in team})
        for index in range(len(chosen))
        if (number, index) not in own
    )
    return {
        modules: np.reshape(
            [scores[number, :, index] for number, index in modules],
            (len(modules), scores.shape[1]),
        ).T
        for modules in support_options(others, lambda module: True)
    }


def _vote(logits):
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    return np.mean(powers / powers.sum(axis=2, keepdims=True), 0).argmax(1)


def summary_of(rows: list[dict]) -> dict:
    """Mean gains over cells of one architecture, in points."""
    cells = [row for row in rows if row["architecture"] != ALL]

    def gain(over, own, model="composed"):
        return float(100 * np.mean([row[model] - row[over] for row in own]))

    return {
        "gain": gain("best_source", cells),
        "alone_gain": gain("best_source", cells, "alone"),
        "team_gain": gain("best_source", cells, "team"),
        "papers_split_gain": gain(
            "papers_split_best_source", cells, "papers_split_composed"
        ),
        "gain_over_best_on_test": gain("best_source_on_test", cells),
        "gain_over_soft_vote": gain("soft_vote", cells),
        "gain_of_all_architectures": gain(
            "best_source", [row for row in rows if row not in cells]
        ),
        "cells": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reuse_sources.add_arguments(parser)
    args = parser.parse_args()
    rows = []
    for name, settings in POOLS.items():
        sources = reuse_sources.sources(args, name, settings)
        for architecture in args.architectures:
            own = [s for s in sources if s["architecture"] == architecture]
            rows.append(row_of(args, name, architecture, own))
        rows.append(row_of(args, name, ALL, sources))
    summary = summary_of(rows)
    patching_rows.write_csv("more_accurate", rows)
    facts = {
        "command": command(args, "architectures", "seeds"),
        "machine": machine(),
        "seeds": args.seeds,
        "images_of_each_class": reuse_sources.FEW,
    }
    write_result("more_accurate", facts | summary)
    keys = (
        "gain",
        "alone_gain",
        "team_gain",
        "papers_split_gain",
        "gain_over_soft_vote",
    )
    update_summary("more_accurate", {key: summary[key] for key in keys})
    print(summary)


if __name__ == "__main__":
    main()
