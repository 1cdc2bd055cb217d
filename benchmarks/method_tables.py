"""Means, tables and bars of the methods that choose kernels."""

import numpy as np
from common import RESULTS
from common import interval_of_mean
from common import update_summary
from common import write_result
from controls import CONTROLS

METHODS = ("gradsplitter", "cnnsplitter", *CONTROLS)
COLUMNS = {
    "accuracy_loss": ("loss, points", "{:.2f}"),
    "accuracy_loss_own": ("own calibration", "{:.2f}"),
    "accuracy_loss_trained": ("heads trained", "{:.2f}"),
    "retention_rate": ("kernels kept", "{:.3f}"),
    "macs_ratio": ("MACs ÷ source", "{:.2f}"),
    "jaccard_distance": ("Jaccard distance", "{:.2f}"),
    "seconds": ("seconds", "{:.0f}"),
    "processor_seconds": ("of processors", "{:.0f}"),
}
BARS = {
    "cnnsplitter_loss": 2.89,
    "cnnsplitter_retention": 0.57,
    "fewer_kernels": 0.1988,
    "evaluation_speed": 3.0,
}


def write(facts: dict, cells: list[dict], races: list[dict]) -> None:
    """Writes JSON, tables and summary, with the bars checked.

    Args:
        facts: Where the figures come from.
        cells: Figures of one method in one setting each.
        races: Speeds of evaluation, one for each source model.
    """
    means = {method: means_of(cells, method) for method in METHODS}
    write_result(
        "methods",
        {
            **facts,
            "bars": bars(cells, means, races),
            "means": means,
            "cells": cells,
            "evaluation_speed": races,
        },
    )
    (RESULTS / "methods.md").write_text(tables(means, cells))
    update_summary("methods", means)


def tables(means, cells):
    """Returns the means and all cells as Markdown tables."""
    columns = {
        name: shown for name, shown in COLUMNS.items() if name in cells[0]
    }
    head = [title for title, _ in columns.values()]
    rows = [("mean", method, means[method]) for method in METHODS]
    rows += [
        (f"{c['network']}, {c['data']}, seed {c['seed']}", c["method"], c)
        for c in cells
    ]
    lines = [["setting", "method", *head], ["---"] * (2 + len(head))]
    lines += [
        [where, method, *(f.format(row[k]) for k, (_, f) in columns.items())]
        for where, method, row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def means_of(cells, method):
    own = [cell for cell in cells if cell["method"] == method]
    names = [name for name in COLUMNS if name in own[0]]
    return {name: float(np.mean([c[name] for c in own])) for name in names}


def bars(cells, means, races):
    """Returns each bar with what was measured and whether it holds."""
    gradient, search = means["gradsplitter"], means["cnnsplitter"]
    losses = {
        method: [c["accuracy_loss"] for c in cells if c["method"] == method]
        for method in METHODS
    }
    fewer = 1 - gradient["retention_rate"] / search["retention_rate"]
    speed = min(row["speed_up"] for row in races)
    return {
        "cnnsplitter_loss": {
            "value": search["accuracy_loss"],
            "bar": BARS["cnnsplitter_loss"],
            "holds": search["accuracy_loss"] <= BARS["cnnsplitter_loss"],
        },
        "cnnsplitter_retention": {
            "value": search["retention_rate"],
            "bar": BARS["cnnsplitter_retention"],
            "holds": search["retention_rate"] <= BARS["cnnsplitter_retention"],
        },
        "controls_lose_more": {
            method: against_search(losses[method], losses["cnnsplitter"])
            for method in CONTROLS
        },
        "gradsplitter_fewer_kernels": {
            "relative": fewer,
            "points": 100
            * (search["retention_rate"] - gradient["retention_rate"]),
            "loss_difference": gradient["accuracy_loss"]
            - search["accuracy_loss"],
            "bar": BARS["fewer_kernels"],
            "holds": fewer >= BARS["fewer_kernels"]
            and gradient["accuracy_loss"] <= search["accuracy_loss"],
        },
        "evaluation_speed": {
            "value": speed,
            "bar": BARS["evaluation_speed"],
            "holds": speed >= BARS["evaluation_speed"],
        },
    }


def against_search(control, search):
    """Compares a control's losses with the search's, setting by setting."""
    more = np.subtract(control, search)
    return {
        "settings": int(np.sum(more > 0)),
        "of": len(more),
        "mean_difference": float(more.mean()),
        "interval": interval_of_mean(more),
        "holds": bool(more.mean() > 0),
    }
