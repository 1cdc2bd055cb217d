"""Builds models of new tasks from modules of uneven sources.

    python benchmarks/new_task.py --data-dir DIR [--seeds 3] [--work DIR]

Pairs take one class of each of two data sets (25 for each pair of data sets),
the other tasks three to five classes of one. For each class the best module
among all source models of its data set is chosen on 20 labelled images of each
class of the task; they calibrate the chosen modules, too, which auxiliary
modules of the same sources may join. The modules alone, up to two of them for
each class (`team`, which `kmod choose` does not do), and a calibration of each
class by itself, are other ways.
Compared, on test images, with

- a model of the same kind trained from scratch on all images of the classes
  in the pool that the sources were trained on, as the papers do,
- the best source model's last layer, trained anew on the same images,
- as a control, the modules of wrong classes, alone.

The papers choose on a fifth of the test images and measure on the rest: a
column of its own. Writes `new_task.json`, `new_task.csv` (one row for each
task) and `new_task.png`; with another number of `--labelled-images` it is part
of their names. Seconds of reuse are those of running all modules that
were compared on these images, and of choosing; those of scratch are of steps
timed at the end, multiplied by all steps. Neither counts the tracing of graphs.
"""

import argparse
import json

import numpy as np
import patching_rows
import reuse_sources
from common import RESULTS
from common import command
from common import interval_of_mean
from common import machine
from common import update_summary
from common import write_result
from reused_models import last_layer
from reused_models import reuse
from scratch_models import Scratch
from task_answers import Answers
from tasks import tasks

LABELLED_IMAGES = 20
ACCURACIES = (
    "reuse",
    "alone",
    "team",
    "fit",
    "papers_split",
    "wrong_class",
    "last_layer",
    "scratch",
)


def all_rows(args) -> list[dict]:
    """One row for each task; trained models are kept in `--work`."""
    models, chosen = Scratch(args), tasks()[: args.max_tasks]
    trained = []
    for number, task in enumerate(chosen):
        trained.append(models.trained(number, task))
        print(task.name, trained[-1], flush=True)
    answers, rows = Answers(args), []
    for number, (task, model) in enumerate(zip(chosen, trained)):
        row = {
            "task": task.name,
            "kind": "pair" if len(task.data) > 1 else "within",
            "num_classes": len(task.classes),
            "architecture": model["architecture"],
            **_row(answers, task),
            "scratch_accuracy": model["accuracy"],
            "scratch_epochs": model["epochs"],
            "scratch_images": model["images"],
            "scratch_seconds": models.seconds(number, task, model),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _row(answers, task):
    ours = reuse(answers, task, auxiliary=True)
    others = {
        "alone": reuse(answers, task),
        "team": reuse(answers, task, largest=2),
        "fit": reuse(answers, task, calibration="fit"),
        "wrong_class": reuse(answers, task, shift=1),
        "papers_split": reuse(
            answers, task, splits=("first", "rest"), auxiliary=True
        ),
    }
    return {
        "labelled_images": len(answers.truth(task, "few")),
        "reuse_accuracy": ours["accuracy"],
        "reuse_seconds": ours["seconds"],
        **{f"{name}_accuracy": others[name]["accuracy"] for name in others},
        "last_layer_accuracy": last_layer(answers, task),
    }


def summary_of(rows: list[dict]) -> dict:
    """Means over tasks, in points, with bootstrap intervals."""
    kinds = {kind: _gaps(rows, kind) for kind in ("pair", "within")}
    return {"num_tasks": len(rows), **_gaps(rows, None), "by_kind": kinds}


def _gaps(rows, kind):
    own = [row for row in rows if kind in (None, row["kind"])]
    if not own:
        return {}
    accuracy = {
        name: 100 * np.array([row[f"{name}_accuracy"] for row in own])
        for name in ACCURACIES
    }
    gaps = {name: accuracy[name] - accuracy["scratch"] for name in accuracy}
    gap = gaps["reuse"]
    seconds = [
        sum(row[f"{name}_seconds"] for row in own)
        for name in ("reuse", "scratch")
    ]
    return {
        "tasks": len(own),
        "accuracy": {n: float(accuracy[n].mean()) for n in accuracy},
        "gap_to_scratch": float(gap.mean()),
        "gap_interval": interval_of_mean(gap),
        "worst_gap": float(gap.min()),
        **{
            f"{name}_gap": float(gaps[name].mean())
            for name in ("alone", "team", "fit", "last_layer", "papers_split")
        },
        "wrong_class_control_gap": float(gaps["wrong_class"].mean()),
        "time_ratio": seconds[0] / seconds[1],
    }


def plot(rows: list[dict], path) -> None:
    """Draws accuracy of reuse against training from scratch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.5, 4.5))
    for kind in ("pair", "within"):
        own = [row for row in rows if row["kind"] == kind]
        axis.scatter(
            [100 * row["scratch_accuracy"] for row in own],
            [100 * row["reuse_accuracy"] for row in own],
            s=14,
            label={"pair": "two data sets", "within": "one data set"}[kind],
        )
    low = min(axis.get_xlim()[0], axis.get_ylim()[0])
    axis.plot([low, 100], [low, 100], color="grey", linewidth=0.8)
    axis.set(xlabel="trained from scratch, %", ylabel="from modules, %")
    axis.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reuse_sources.add_arguments(parser)
    parser.add_argument("--scratch-epochs", type=int, default=100)
    parser.add_argument(
        "--labelled-images",
        type=int,
        default=LABELLED_IMAGES,
        help="of each class, to choose and calibrate with",
    )
    parser.add_argument("--max-tasks", type=int, help="the first ones only")
    args = parser.parse_args()
    rows = all_rows(args)
    summary = summary_of(rows)
    is_default = args.labelled_images == LABELLED_IMAGES
    name = "new_task" if is_default else f"new_task-{args.labelled_images}"
    patching_rows.write_csv(name, rows)
    plot(rows, RESULTS / f"{name}.png")
    facts = {
        "command": command(
            args,
            "architectures",
            "seeds",
            "scratch_epochs",
            "labelled_images",
            "max_tasks",
        ),
        "machine": machine(),
        "seeds": args.seeds,
        "architectures": list(args.architectures),
        "scratch_epochs": args.scratch_epochs,
        "images_of_each_class": args.labelled_images,
    }
    write_result(name, facts | summary)
    if not is_default:
        return
    keys = (
        "num_tasks",
        "gap_to_scratch",
        "alone_gap",
        "team_gap",
        "last_layer_gap",
        "papers_split_gap",
        "wrong_class_control_gap",
        "time_ratio",
    )
    update_summary("new_task", {key: summary[key] for key in keys})


if __name__ == "__main__":
    main()
