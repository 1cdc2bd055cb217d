"""Composes one class of each of two data sets, without labels.

    python benchmarks/pairs.py --data-dir DIR [--seeds 3] [--work DIR]

The pairs of `new_task.py` and its source models. For each class the module of
the highest F1 on its source's own held-out images is taken, as `kmod choose`
does without `--data`, and familiarity, of the images that each source learned
from, tells the two data sets apart: no image of the task is used. Beside it
stand the same modules without familiarity, the way with 20 labelled images of
each class, and models trained from scratch, which `new_task.py` has measured
on the same test images (`new_task.csv`). Writes `pairs.json`, `pairs.csv` (one
row for each pair) and the section `pairs` of `summary.json`.
"""

import argparse
import csv
import functools
import json

import numpy as np
import patching_rows
import reuse_sources
import twins
from common import RESULTS
from common import command
from common import interval_of_mean
from common import machine
from common import update_summary
from common import write_result
from reused_models import reuse
from task_answers import Answers
from tasks import Task
from tasks import tasks

from kmod.composition.routing import evidence_of
from kmod.composition.routing import group_worlds
from kmod.composition.routing import routed_scores
from kmod.modules.familiarity import Familiarity
from kmod.modules.familiarity import fit_familiarity
from kmod.modules.manifest import InputContract

LABELLED_IMAGES = 20
WAYS = ("unlabelled", "blind", "labelled", "scratch")


def row_of(args, answers: Answers, task: Task, scratch: float) -> dict:
    """Accuracies of one pair."""
    truth = answers.truth(task, "test")
    sources = [
        max(answers.sources[name], key=lambda own: own["f1"][index])
        for name, index in task.classes
    ]
    log_odds = np.stack(
        [
            answers.of(task, name, source, "test", "log_odds")[:, index]
            for (name, index), source in zip(task.classes, sources)
        ],
        axis=1,
    )
    familiarities = [
        familiarity_of(name, args.data_dir, _seed(args, source))
        for name, source in zip(task.data, sources)
    ]
    worlds = group_worlds(familiarities)
    evidence = evidence_of(*_images(args, task), familiarities, worlds)
    modules = [
        (number, familiarities[number].class_names[index])
        for number, (_, index) in enumerate(task.classes)
    ]
    routed = routed_scores(log_odds, evidence, modules)
    return {
        "pair": task.name,
        "unlabelled_accuracy": _right(routed, truth),
        "blind_accuracy": _right(log_odds, truth),
        "labelled_accuracy": reuse(answers, task, auxiliary=True)["accuracy"],
        "scratch_accuracy": scratch,
    }


def _right(scores, truth):
    return float(np.mean(scores.argmax(axis=1) == truth))


def _seed(args, source):
    """Returns the seed that drew the images of a source model."""
    return 1 + source["number"] // len(args.architectures)


@functools.lru_cache(maxsize=None)
def familiarity_of(name: str, data_dir, seed: int) -> Familiarity:
    """Fits the familiarity of what a source model learned from."""
    pool = reuse_sources.POOLS[name]
    own = reuse_sources.own_images(name, data_dir, pool, seed)
    parts = [(part.images, part.labels) for part in (own.train, own.validation)]
    return fit_familiarity(parts, own.class_names, _contract(name, data_dir))


def _contract(name, data_dir):
    data = reuse_sources.load(name, data_dir)
    shape = data.train.images.shape[1:]
    return InputContract(shape, "float32", tuple(map(float, data.value_range)))


def _images(args, task):
    """The test images of a pair, as a composition takes them."""
    contracts = {name: _contract(name, args.data_dir) for name in task.data}
    to = max(contracts, key=lambda name: np.prod(contracts[name].shape))
    pieces = []
    for name, index in task.classes:
        test = reuse_sources.test_images(
            name, args.data_dir, reuse_sources.TEST_OTHER
        )
        own = twins.of_classes(test, [index]).images
        own = reuse_sources.adapted(name, to, own, args.data_dir)
        pieces.append(own.astype("float32"))
    return np.concatenate(pieces), contracts[to]


def summary_of(rows: list[dict]) -> dict:
    """Means in percent, and gaps to training from scratch in points."""
    accuracy = {
        way: 100 * np.array([row[f"{way}_accuracy"] for row in rows])
        for way in WAYS
    }
    gaps = {way: accuracy[way] - accuracy["scratch"] for way in WAYS[:-1]}
    return {
        "num_pairs": len(rows),
        "accuracy": {way: float(accuracy[way].mean()) for way in WAYS},
        **{f"{way}_gap": float(gap.mean()) for way, gap in gaps.items()},
        "unlabelled_interval": interval_of_mean(gaps["unlabelled"]),
        "unlabelled_worst": float(gaps["unlabelled"].min()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reuse_sources.add_arguments(parser)
    args = parser.parse_args()
    args.labelled_images = LABELLED_IMAGES
    with (RESULTS / "new_task.csv").open(newline="") as file:
        scratch = {
            row["task"]: float(row["scratch_accuracy"])
            for row in csv.DictReader(file)
        }
    answers, rows = Answers(args), []
    for task in tasks():
        if len(task.data) == 2:
            rows.append(row_of(args, answers, task, scratch[task.name]))
            print(json.dumps(rows[-1]), flush=True)
    patching_rows.write_csv("pairs", rows)
    summary = summary_of(rows)
    facts = {
        "command": command(args, "architectures", "seeds"),
        "machine": machine(),
        "seeds": args.seeds,
    }
    write_result("pairs", facts | summary)
    del summary["accuracy"]
    update_summary("pairs", summary)


if __name__ == "__main__":
    main()
