"""Figures of `patching.py`: one row for each patch, means, table and plot."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
from common import NUM_SAMPLES
from common import RESULTS

from kmod.composition.patched_model import Patch
from kmod.files import atomic_write
from kmod.metrics.comparison import compare_answers
from kmod.patching.patch_fit import ValidationScores
from kmod.patching.patch_fit import fit_on_scores
from kmod.patching.patch_fit import fit_rule
from kmod.patching.patch_fit import patch_predictions

FIGURES = ("precision", "recall", "f1", "other_accuracy")
RULES = ("calibrated", "minmax", "raw")
# The rule with the target's module alone, and controls by the same rule. They
# patch in any case.
CONTROLS = (
    "one_module",
    "no_module",
    "wrong_class",
    "random_kernels",
    "whole_model",
)
WITHOUT_AUXILIARY = ("one_module", "no_module", "wrong_class")
PAPERS_WEAKNESS = 0.35, 0.76  # F1 of the papers' weak models, CIFAR-10.


def rows_of(cell, strong, weak, target, variants, per_class) -> list[dict]:
    """Patches the weak models of one target; one row for each variant.

    Args:
        cell: Facts that every row begins with.
        strong: What the strong model and its modules say.
        weak: Logits of the weak models.
        target: The target class, an index of the strong model's classes.
        variants: The weak models.
        per_class: Validation images of each class to fit on.
    """
    return [
        {
            **cell,
            "variant": variant,
            **patch_figures(strong, weak, target, variant, per_class),
        }
        for variant in variants
    ]


def patch_figures(strong, weak, target, variant, per_class) -> dict:
    """Figures on test images before the patch and after it, by rule."""
    parts = {
        part: scores_of(strong, weak, target, variant, part, "module")
        for part in ("validation", "test")
    }
    validation = few_of_each(parts["validation"], per_class)
    test = parts["test"]
    answers = {"weak": test.predictions}
    answers["calibrated"], is_declined = calibrated(validation, test)
    for rule in ("minmax", "raw"):
        fitted = fit_rule(Patch(validation.target, None, rule), validation)
        answers[rule] = patch_predictions(fitted, test)
    for control in CONTROLS:
        fit_on, measured = (
            scores_of(strong, weak, target, variant, part, control)
            for part in ("validation", "test")
        )
        fit_on = few_of_each(fit_on, per_class)
        fitted = fit_rule(Patch(fit_on.target, None), fit_on)
        answers[control] = patch_predictions(fitted, measured)
    row = {"declined": int(is_declined)}
    for rule, predictions in answers.items():
        row |= _figures(rule, predictions, test)
    row |= _intervals(answers, test) | _losses(answers, test)
    return row | _by_papers_split(test)


def _figures(name, predictions, scores):
    figures = dataclasses.astuple(scores.figures_of(predictions))
    return {f"{name}_{key}": value for key, value in zip(FIGURES, figures)}


def _by_papers_split(test):
    """The papers' split: fitted on a fifth of the test images, not the rest."""
    order = [np.flatnonzero(test.labels == c) for c in range(5)]
    first = np.concatenate([own[: len(own) // 5] for own in order])
    is_first = np.isin(np.arange(len(test.labels)), first)
    rest = test.take(~is_first)
    patched, _ = calibrated(test.take(is_first), rest)
    weak = _figures("papers_split_weak", rest.predictions, rest)
    return weak | _figures("papers_split_calibrated", patched, rest)


def calibrated(
    validation: ValidationScores, test: ValidationScores
) -> tuple[np.ndarray, bool]:
    """Answers of the rule as `kmod patch` uses it: none where none helps."""
    fitted = fit_on_scores(validation, None)
    if not fitted.helps:
        return test.predictions, True
    return patch_predictions(fitted.patch, test), False


def scores_of(strong, weak, target, variant, part, donor) -> ValidationScores:
    """What a weak model and a donor say of the weak task's images.

    Args:
        strong: What the strong model says of the images of all classes.
        weak: What the weak model says of those of its five classes, the
            four unseen ones and the target.
        target: Index of the target among the strong model's classes.
        variant: The weak model.
        part: `"validation"` or `"test"`.
        donor: `"module"` or a control.
    """
    labels = strong[f"{part}_labels"]
    rows = np.concatenate(
        [np.flatnonzero(labels >= 5), np.flatnonzero(labels == target)]
    )
    rows = np.sort(rows)
    own = np.where(labels[rows] == target, 4, labels[rows] - 5)
    key = f"{part}_random" if donor == "random_kernels" else part
    column = (target + 1) % 5 if donor == "wrong_class" else target
    log_odds = strong[f"{key}_log_odds"][rows]
    if donor == "whole_model":
        log_odds = _log_odds(strong[f"{part}_logits"][rows])
    if donor == "no_module":
        log_odds = np.zeros_like(log_odds)
    modules = [column]
    if donor not in WITHOUT_AUXILIARY:
        modules += [each for each in range(5) if each != column]
    return ValidationScores(
        weak[f"{part}_{variant}"],
        log_odds[:, modules],
        strong[f"{key}_raw"][rows, column],
        own,
        4,
    )


def _log_odds(logits):
    """One-vs-rest log-odds of every class of a whole model."""
    logits = logits.astype("float64")
    columns = range(logits.shape[1])
    others = [np.delete(logits, column, axis=1) for column in columns]
    rest = [np.logaddexp.reduce(each, axis=1) for each in others]
    return logits - np.stack(rest, axis=1)


def few_of_each(scores: ValidationScores, count: int) -> ValidationScores:
    """Keeps the first images of each class."""
    kept = [np.flatnonzero(scores.labels == c)[:count] for c in range(5)]
    return scores.take(np.sort(np.concatenate(kept)))


def _intervals(answers, test):
    compared = compare_answers(
        test.labels, answers["weak"], answers["calibrated"], test.target
    )
    found = {}
    for name, key in zip(compared, FIGURES):
        low, high = compared[name].gain_interval
        found |= {f"{key}_gain_low": low, f"{key}_gain_high": high}
    return found


def _losses(answers, test):
    """Why recall falls: target images that only the weak model got right."""
    found = {}
    known = test.is_target & (answers["weak"] == test.target)
    for rule in RULES:
        lost = known & (answers[rule] != test.target)
        found[f"{rule}_lost"] = int(lost.sum())
        found[f"{rule}_lost_by_scale"] = int(np.sum(test.log_odds[lost, 0] > 0))
    return found


def write_csv(name: str, rows: list[dict]) -> None:
    """Writes `benchmarks/results/<name>.csv`, figures to four digits."""
    lines = [list(rows[0])]
    for row in rows:
        lines.append(
            [f"{v:.4f}" if isinstance(v, float) else v for v in row.values()]
        )
    path = RESULTS / f"{name}.csv"
    temporary = Path(f"{path}.part")
    with temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    atomic_write(path, temporary.read_text())
    temporary.unlink()


def summary_of(rows: list[dict]) -> dict:
    """The figures of `summary.json`: means over cells, in points."""
    gains = {rule: _gains(rows, rule) for rule in (*RULES, *CONTROLS)}
    ours = gains["calibrated"]
    has_learned = np.array([row["variant"] != "underfit" for row in rows])
    weak_f1 = np.array([row["weak_f1"] for row in rows])
    low, high = PAPERS_WEAKNESS
    as_weak = (low <= weak_f1) & (weak_f1 <= high)
    papers_split = _gains(rows, "calibrated", "papers_split_")
    return {
        "num_patches": len(rows),
        "declined": sum(row["declined"] for row in rows),
        **_headline(rows, ours, slice(None)),
        "without_underfit": _headline(rows, ours, has_learned),
        "papers_split": _headline(rows, papers_split, slice(None)),
        "papers_weakness": {
            "num_patches": int(as_weak.sum()),
            **_headline(rows, ours, as_weak),
        },
        "f1_falls": int(np.sum(ours["f1"] < 0)),
        "recall_falls": int(np.sum(ours["recall"] < 0)),
        "other_classes_gain": _macro(rows, ours["other_accuracy"]),
        "other_classes_worst": float(ours["other_accuracy"].min()),
        "other_classes_fall_by_half_a_point": int(
            np.sum(ours["other_accuracy"] < -0.5)
        ),
        "intervals": {
            f"{name}_gain": _interval(rows, ours[name]) for name in FIGURES
        },
        "rules": {rule: _macro(rows, gains[rule]["f1"]) for rule in RULES},
        "by_rule": {
            rule: {
                **{n: _macro(rows, gains[rule][n]) for n in FIGURES},
                "f1_falls": int(np.sum(gains[rule]["f1"] < 0)),
                "recall_falls": int(np.sum(gains[rule]["recall"] < 0)),
                "other_classes_worst": float(
                    gains[rule]["other_accuracy"].min()
                ),
            }
            for rule in (*RULES, *CONTROLS)
        },
        "by_data": {
            data: _headline(rows, ours, own)
            | {"weak_f1": 100 * float(np.mean(weak_f1[own]))}
            for data, own in _rows_by_data(rows).items()
        },
        "lost_by_scale": {rule: _lost_by_scale(rows, rule) for rule in RULES},
        "cells": _cells(rows),
    }


def _rows_by_data(rows):
    names = np.array([row["data"] for row in rows])
    return {str(name): names == name for name in dict.fromkeys(names)}


def _gains(rows, rule, split=""):
    def values(model, name):
        return np.array([100 * r[f"{split}{model}_{name}"] for r in rows])

    return {name: values(rule, name) - values("weak", name) for name in FIGURES}


def _headline(rows, gains, chosen):
    part = list(np.array(rows, dtype=object)[chosen])
    return {
        f"{name}_gain": _macro(part, gains[name][chosen])
        for name in ("precision", "recall", "f1")
    }


def _cell_of(row):
    return row["data"], row["architecture"], row["variant"]


def _macro(rows, values):
    """Mean over cells of the means over their patches."""
    return float(np.mean(list(_by_cell(rows, values).values())))


def _by_cell(rows, values):
    cells = {}
    for row, value in zip(rows, values):
        cells.setdefault(_cell_of(row), []).append(value)
    return {cell: float(np.mean(own)) for cell, own in cells.items()}


def _interval(rows, values):
    """Bootstrap over the patches of each cell, 95 %."""
    random = np.random.default_rng(0)
    cells = {}
    for row, value in zip(rows, values):
        cells.setdefault(_cell_of(row), []).append(value)
    means = np.mean(
        [
            random.choice(own, (NUM_SAMPLES, len(own))).mean(axis=1)
            for own in cells.values()
        ],
        axis=0,
    )
    return [float(value) for value in np.percentile(means, [2.5, 97.5])]


def _lost_by_scale(rows, rule):
    """Share of the images lost that the module itself recognises."""
    lost = sum(row[f"{rule}_lost"] for row in rows)
    by_scale = sum(row[f"{rule}_lost_by_scale"] for row in rows)
    return {"lost": lost, "recognised_by_the_module": by_scale / max(lost, 1)}


def _cells(rows):
    """Weak and patched, in percent, in the shape of the papers' tables."""
    table = []
    for cell in dict.fromkeys(map(_cell_of, rows)):
        own = [row for row in rows if _cell_of(row) == cell]
        line = dict(zip(("data", "architecture", "variant"), cell))
        for name in FIGURES:
            line[name] = [
                round(100 * float(np.mean([r[f"{m}_{name}"] for r in own])), 2)
                for m in ("weak", "calibrated")
            ]
        table.append(line)
    return table


def plot(rows: list[dict], path: Path) -> None:
    """Draws the F1 of every patch before and after, by rule."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 4), sharey=True)
    colours = {"simple": "C0", "underfit": "C1", "overfit": "C2"}
    for axis, rule in zip(axes, RULES):
        for variant, colour in colours.items():
            own = [row for row in rows if row["variant"] == variant]
            axis.scatter(
                [100 * row["weak_f1"] for row in own],
                [100 * row[f"{rule}_f1"] for row in own],
                s=14,
                color=colour,
                label=variant,
            )
        axis.plot([0, 100], [0, 100], color="grey", linewidth=0.8)
        axis.set(title=rule, xlabel="F1 of the weak model")
    axes[0].set_ylabel("F1 of the patched model")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
