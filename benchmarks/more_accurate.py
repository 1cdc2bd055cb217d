"""Composes a more accurate model of the best modules of uneven sources.

    python benchmarks/more_accurate.py --data-dir DIR [--seeds 3] [--work DIR]

Every source model learned an uneven part of the same pool of images. For each
class the best module among the sources is chosen on 50 labelled images of each
class, which calibrate the chosen modules as well. Compared, on test images,
with the best single source model (chosen on the same 50 images), with the soft
vote of all sources, and with the best source on the test images themselves.

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

from kmod.composition.scoring import fit_line
from kmod.reuse.separation import best_columns

DATA = ("cifar10", "fashion_mnist")
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

    composed, chosen = compose(
        answers("few", "log_odds"), few, answers("test", "log_odds")
    )
    logits = answers("test", "logits")
    single = np.mean(logits.argmax(axis=2) == test, axis=1)
    on_few = np.mean(answers("few", "logits").argmax(axis=2) == few, axis=1)
    return {
        "data": name,
        "architecture": architecture,
        "sources": len(sources),
        "sources_used": len(set(chosen)),
        "composed": float(np.mean(composed == test)),
        "best_source": float(single[on_few.argmax()]),
        "best_source_on_test": float(single.max()),
        "mean_source": float(single.mean()),
        "soft_vote": float(np.mean(_vote(logits) == test)),
    }


def compose(few_scores, few, test_scores) -> tuple[np.ndarray, list[int]]:
    """Chooses and calibrates modules; returns answers and the choice.

    Args:
        few_scores: Log-odds `(sources, n, classes)` of labelled images.
        few: Their labels.
        test_scores: Log-odds `(sources, m, classes)` of test images.
    """
    classes = range(few_scores.shape[2])
    columns = [dict(enumerate(few_scores[:, :, c])) for c in classes]
    chosen = best_columns(columns, few)
    scores = []
    for label, number in enumerate(chosen):
        scale, shift = fit_line(columns[label][number], few == label)
        scores.append(scale * test_scores[number, :, label] + shift)
    return np.stack(scores, axis=1).argmax(axis=1), chosen


def _vote(logits):
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    return np.mean(powers / powers.sum(axis=2, keepdims=True), 0).argmax(1)


def summary_of(rows: list[dict]) -> dict:
    """Mean gains over cells of one architecture, in points."""
    cells = [row for row in rows if row["architecture"] != ALL]

    def gain(over, own):
        return float(
            100 * np.mean([row["composed"] - row[over] for row in own])
        )

    return {
        "gain": gain("best_source", cells),
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
    for name in DATA:
        sources = reuse_sources.sources(args, name)
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
    update_summary("more_accurate", {"gain": summary["gain"]})
    print(summary)


if __name__ == "__main__":
    main()
