"""Builds models of new tasks from modules of uneven sources.

    python benchmarks/new_task.py --data-dir DIR [--seeds 3] [--work DIR]

Pairs take one class of each of two data sets (25 for each pair of data sets),
the other tasks three to five classes of one. For each class the best module
among all source models of its data set is chosen on 50 labelled images of each
class of the task; they calibrate the chosen modules, too. Compared, on test
images, with

- a model of the same kind trained from scratch on all images of the classes
  in the pool that the sources were trained on,
- the best source model's last layer, trained anew on the 50 images,
- as a control, the modules of wrong classes.

Writes `new_task.json`, `new_task.csv` (one row for each task) and
`new_task.png`. Seconds of reuse are those of running all modules that were
compared on the 50 images, and of choosing; those of scratch are of training.
Neither counts the tracing of graphs.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import time

import numpy as np
import patching_rows
import reuse_sources
import twins
from common import RESULTS
from common import command
from common import machine
from common import part
from common import update_summary
from common import write_result
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmod.composition.scoring import fit_line
from kmod.data.image_data import LabelledImages
from kmod.reuse.separation import best_columns
from kmod.zoo.build import build

NUM_PAIRS = 25
NUM_WITHIN = {"cifar10": 12, "fashion_mnist": 12, "mnist": 6}
PATIENCE = 5


@dataclasses.dataclass(frozen=True)
class Task:
    """Classes of a new model: data set and class index of each."""

    classes: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return "+".join(f"{data}.{index}" for data, index in self.classes)

    @property
    def data(self) -> list[str]:
        return list(dict.fromkeys(data for data, _ in self.classes))


def tasks() -> list[Task]:
    """All tasks, always the same, in an order that mixes their kinds."""
    random = np.random.default_rng(0)
    found = []
    for first, second in itertools.combinations(reuse_sources.POOLS, 2):
        for number in random.permutation(100)[:NUM_PAIRS]:
            pair = (first, int(number) // 10), (second, int(number) % 10)
            found.append(Task(pair))
    for data, count in NUM_WITHIN.items():
        for index in range(count):
            classes = random.permutation(10)[: 3 + index % 3]
            found.append(Task(tuple((data, int(c)) for c in sorted(classes))))
    return [found[index] for index in random.permutation(len(found))]


class Answers:
    """What all source models say of the images of all data sets."""

    def __init__(self, args):
        self.sources = {
            name: reuse_sources.sources(args, name)
            for name in reuse_sources.POOLS
        }
        self.labels, self._fewer = {}, {}
        for name in reuse_sources.POOLS:
            few = reuse_sources.few_images(name, args.data_dir)
            self.labels[name, "few"] = few.labels
            test = reuse_sources.load(name, args.data_dir).test
            own, other = (
                twins.indices_of_some(test.labels, count)
                for count in (
                    reuse_sources.TEST_OWN,
                    reuse_sources.TEST_OTHER,
                )
            )
            self.labels[name, "test"] = test.labels[other]
            self._fewer[name] = np.searchsorted(own, other)

    def of(self, task: Task, name: str, source: dict, split: str, key: str):
        """Rows for the images of a task, class after class."""
        found = []
        for data, index in task.classes:
            values = source[f"{data}_{split}_{key}"]
            if split == "test" and data == name:
                values = values[self._fewer[data]]
            found.append(values[self.labels[data, split] == index])
        return np.concatenate(found)

    def truth(self, task: Task, split: str) -> np.ndarray:
        counts = [
            int(np.sum(self.labels[data, split] == index))
            for data, index in task.classes
        ]
        return np.repeat(np.arange(len(counts)), counts)


def reuse(answers: Answers, task: Task, shift: int = 0) -> dict:
    """Chooses and calibrates modules; returns accuracy and seconds.

    Args:
        answers: What the source models say.
        task: The task.
        shift: Which other class's module to take, as a control.
    """
    few, test = answers.truth(task, "few"), answers.truth(task, "test")
    columns = {"few": [], "test": []}
    for (name, index), split in itertools.product(task.classes, columns):
        columns[split].append(
            {
                number: answers.of(task, name, source, split, "log_odds")[
                    :, (index + shift) % 10
                ]
                for number, source in enumerate(answers.sources[name])
            }
        )
    start = time.perf_counter()
    chosen = best_columns(columns["few"], few)
    lines = [
        fit_line(own[number], few == label)
        for label, (own, number) in enumerate(zip(columns["few"], chosen))
    ]
    seconds = time.perf_counter() - start
    for name in task.data:
        for source in answers.sources[name]:
            seconds += float(source["seconds_per_image"]) * len(few)
    scores = [
        scale * own[number] + offset
        for (scale, offset), own, number in zip(lines, columns["test"], chosen)
    ]
    right = np.stack(scores, axis=1).argmax(axis=1) == test
    return {"accuracy": float(right.mean()), "seconds": seconds}


def last_layer(answers: Answers, task: Task) -> float:
    """Accuracy of the best source with a new last layer."""
    few, test = answers.truth(task, "few"), answers.truth(task, "test")
    best, best_score = None, -1.0
    for name in task.data:
        for source in answers.sources[name]:
            features = answers.of(task, name, source, "few", "features")
            layer = make_pipeline(
                StandardScaler(), LogisticRegression(C=0.1, max_iter=200)
            )
            score = cross_val_score(layer, features, few, cv=4).mean()
            if score > best_score:
                fitted = layer.fit(features, few)
                best, best_score = (name, source, fitted), score
    name, source, fitted = best
    features = answers.of(task, name, source, "test", "features")
    return float(np.mean(fitted.predict(features) == test))


def scratch(args, task: Task, twin: twins.Twin, seed: int) -> dict:
    """Trains a model on all images of the classes in the pools."""
    images = {
        split: _images(args, task, split) for split in ("train", "few", "test")
    }
    twin.reset(seed)
    start = time.perf_counter()
    best, weights, stale = -1.0, None, 0
    for _ in range(args.scratch_epochs):
        twin.epoch(images["train"])
        accuracy = _accuracy(twin, images["few"])
        stale = 0 if accuracy > best else stale + 1
        if accuracy > best:
            best, weights = accuracy, twin.model.get_weights()
        if stale == PATIENCE:
            break
    seconds = time.perf_counter() - start
    twin.model.set_weights(weights)
    return {
        "accuracy": _accuracy(twin, images["test"]),
        "seconds": seconds,
        "images": len(images["train"]),
    }


def _accuracy(twin, images):
    return float(
        np.mean(twin.logits(images.images).argmax(axis=1) == images.labels)
    )


def _images(args, task, split):
    """Images of a task, all as those of its first data set."""
    pieces, labels = [], []
    for label, (name, index) in enumerate(task.classes):
        found = {
            "train": lambda: reuse_sources.pool(name, args.data_dir),
            "few": lambda: reuse_sources.few_images(name, args.data_dir),
            "test": lambda: reuse_sources.test_images(
                name, args.data_dir, reuse_sources.TEST_OTHER
            ),
        }[split]()
        own = twins.of_classes(found, [index]).images
        to = task.classes[0][0]
        own = reuse_sources.adapted(name, to, own, args.data_dir)
        pieces.append(own.astype("float32"))
        labels.append(np.full(len(own), label))
    return LabelledImages(np.concatenate(pieces), np.concatenate(labels))


def all_rows(args) -> list[dict]:
    """One row for each task; training from scratch is kept in `--work`."""
    answers, models, rows = Answers(args), {}, []
    for number, task in enumerate(tasks()[: args.max_tasks]):
        data = reuse_sources.load(task.classes[0][0], args.data_dir)
        architecture = args.architectures[number % len(args.architectures)]
        key = architecture, data.train.images.shape[1:], len(task.classes)
        if key not in models:
            models[key] = twins.Twin(
                functools.partial(build, *key),
                learning_rate=0.01,
                momentum=0.9,
            )
        path = args.work / f"scratch-{task.name}-{architecture}.json"
        row = {
            "task": task.name,
            "kind": "pair" if len(task.data) > 1 else "within",
            "num_classes": len(task.classes),
            "architecture": architecture,
            **_row(answers, task),
        }
        trained = part(path, scratch, args, task, models[key], number)
        row |= {f"scratch_{name}": trained[name] for name in trained}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _row(answers, task):
    ours, control = reuse(answers, task), reuse(answers, task, shift=1)
    return {
        "labelled_images": len(answers.truth(task, "few")),
        "reuse_accuracy": ours["accuracy"],
        "reuse_seconds": ours["seconds"],
        "wrong_class_accuracy": control["accuracy"],
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
    names = "reuse", "wrong_class", "last_layer", "scratch"
    accuracy = {
        n: 100 * np.array([r[f"{n}_accuracy"] for r in own]) for n in names
    }
    gap = accuracy["reuse"] - accuracy["scratch"]
    draws = np.random.default_rng(0).choice(gap, (2000, len(gap))).mean(axis=1)
    seconds = [
        sum(row[f"{name}_seconds"] for row in own)
        for name in ("reuse", "scratch")
    ]
    return {
        "tasks": len(own),
        "accuracy": {n: float(accuracy[n].mean()) for n in names},
        "gap_to_scratch": float(gap.mean()),
        "gap_interval": [float(v) for v in np.percentile(draws, [2.5, 97.5])],
        "worst_gap": float(gap.min()),
        "gap_to_last_layer": float(
            np.mean(accuracy["reuse"] - accuracy["last_layer"])
        ),
        "wrong_class_control_gap": float(
            np.mean(accuracy["wrong_class"] - accuracy["scratch"])
        ),
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
    parser.add_argument("--max-tasks", type=int, help="the first ones only")
    args = parser.parse_args()
    rows = all_rows(args)
    summary = summary_of(rows)
    patching_rows.write_csv("new_task", rows)
    plot(rows, RESULTS / "new_task.png")
    facts = {
        "command": command(
            args, "architectures", "seeds", "scratch_epochs", "max_tasks"
        ),
        "machine": machine(),
        "seeds": args.seeds,
        "architectures": list(args.architectures),
        "scratch_epochs": args.scratch_epochs,
        "images_of_each_class": reuse_sources.FEW,
    }
    write_result("new_task", facts | summary)
    keys = (
        "num_tasks",
        "gap_to_scratch",
        "wrong_class_control_gap",
        "time_ratio",
    )
    update_summary("new_task", {key: summary[key] for key in keys})


if __name__ == "__main__":
    main()
