"""Builds models of new tasks from modules of uneven sources.

    python benchmarks/new_task.py --data-dir DIR [--seeds 3] [--work DIR]

Pairs take one class of each of two data sets (25 for each pair of data sets),
the other tasks three to five classes of one. For each class the best module
among all source models of its data set is chosen on 20 labelled images of each
class of the task; they calibrate the chosen modules, too. Teams of up to two
modules for each class, and a calibration of each class by itself, are other
ways. Compared, on test images, with

- a model of the same kind trained from scratch on all images of the classes
  in the pool that the sources were trained on,
- the best source model's last layer, trained anew on the same images,
- as a control, the modules of wrong classes.

The papers choose on a fifth of the test images and measure on the rest: a
column of its own. Writes `new_task.json`, `new_task.csv` (one row for each
task) and `new_task.png`; with another number of `--labelled-images` it is part
of their names. Seconds of reuse are those of running all modules that
were compared on these images, and of choosing; those of scratch are of steps
timed at the end, multiplied by all steps. Neither counts the tracing of graphs.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import time

import keras
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
from reuse_sources import layer_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmod.composition.sharing import merge_models
from kmod.data.image_data import LabelledImages
from kmod.masks.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
from kmod.reuse.separation import best_columns
from kmod.reuse.separation import teams
from kmod.zoo.build import build

NUM_PAIRS = 25
NUM_WITHIN = {"cifar10": 12, "fashion_mnist": 12, "mnist": 6}
PATIENCE = 5
LABELLED_IMAGES = 20
MOST_MODULES = 5  # Of one source model that a task takes.
ACCURACIES = (
    "reuse",
    "team",
    "fit",
    "papers_split",
    "wrong_class",
    "last_layer",
    "scratch",
)
# Which of a class's test images a split has.
PARTS = {
    "test": lambda rows: rows,
    "first": lambda rows: rows[: len(rows) // 5],
    "rest": lambda rows: rows[len(rows) // 5 :],
}


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
        self.times = {
            (name, architecture): part(
                args.work / f"time-modules-{name}-{architecture}.json",
                *(time_modules, args, name, architecture),
            )
            for name in self.sources
            for architecture in args.architectures
        }
        self.labels, self._fewer = {}, {}
        self._labelled_images = args.labelled_images
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
        """Rows for the images of a task, class after class.

        Args:
            task: The task.
            name: Data set of the source model.
            source: What a source model says.
            split: `"few"`, `"test"`, or the `"first"` fifth of the test
                images, or the `"rest"` of them.
            key: What of it, such as `"log_odds"`.
        """
        found = []
        for data, index in task.classes:
            part, rows = self._rows(data, index, split)
            values = source[f"{data}_{part}_{key}"]
            if part == "test" and data == name:
                values = values[self._fewer[data]]
            found.append(values[rows])
        return np.concatenate(found)

    def truth(self, task: Task, split: str) -> np.ndarray:
        counts = [len(self._rows(*own, split)[1]) for own in task.classes]
        return np.repeat(np.arange(len(counts)), counts)

    def _rows(self, data, index, split):
        part = "few" if split == "few" else "test"
        rows = np.flatnonzero(self.labels[data, part] == index)
        if split == "few":
            return part, rows[: self._labelled_images]
        return part, PARTS[split](rows)


def reuse(
    answers: Answers,
    task: Task,
    *,
    shift: int = 0,
    largest: int = 1,
    splits: tuple[str, str] = ("few", "test"),
    calibration: str = "joint",
) -> dict:
    """Chooses and calibrates modules; returns accuracy and seconds.

    Args:
        answers: What the source models say.
        task: The task.
        shift: Which other class's module to take, as a control.
        largest: Modules in a class's team, at most.
        splits: Images to choose on, and to measure on.
        calibration: `"joint"` or `"fit"`, as in a spec.
    """
    few, test = (answers.truth(task, split) for split in splits)
    columns = [_columns(answers, task, shift, split) for split in splits]
    start = time.perf_counter()
    own, new = ([teams(c, largest) for c in each] for each in columns)
    chosen = best_columns(own, few)
    own, new = (
        np.stack([each[team] for each, team in zip(found, chosen)], axis=1)
        for found in (own, new)
    )
    weights, bias = layer_of(own, few, calibration)
    seconds = time.perf_counter() - start
    for name in task.data:
        modules = sum(data == name for data, _ in task.classes)
        for source in answers.sources[name]:
            times = answers.times[name, source["architecture"]]
            each = (times["most"] - times["one"]) / (MOST_MODULES - 1)
            seconds += (times["one"] + (modules - 1) * each) * len(few)
    right = (new @ weights + bias).argmax(axis=1) == test
    return {"accuracy": float(right.mean()), "seconds": float(seconds)}


def time_modules(args, name: str, architecture: str) -> dict:
    """Seconds for an image of one and of `MOST_MODULES` modules together.

    Modules of a source model of no use, but of the same size: 40 % of the
    kernels behind the stem are kept. Of two runs the second counts.
    """
    images = reuse_sources.load(name, args.data_dir).train.images[:500]
    source = build(architecture, images.shape[1:], 10)
    modular = ModularModel(source, mask_from=twins.MASKS[architecture][0])
    twins.thin_out(modular, 0.4)
    found = {}
    for key, count in (("one", 1), ("most", MOST_MODULES)):
        image, outputs = merge_models(
            {
                f"module_{index}": log_odds_model(cut_module(modular, index))
                for index in range(count)
            }
        )
        model = keras.Model(image, outputs)
        for _ in range(2):
            start = time.perf_counter()
            model.predict(images, batch_size=256, verbose=0)
            found[key] = (time.perf_counter() - start) / len(images)
    return found


def _columns(answers, task, shift, split):
    """For every class what the modules of each source model say."""
    return [
        {
            number: answers.of(task, name, source, split, "log_odds")[
                :, (index + shift) % 10
            ]
            for number, source in enumerate(answers.sources[name])
        }
        for name, index in task.classes
    ]


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
    best, weights, stale, epochs = -1.0, None, 0, 0
    while epochs < args.scratch_epochs and stale < PATIENCE:
        twin.epoch(images["train"])
        epochs += 1
        accuracy = _accuracy(twin, images["few"])
        stale = 0 if accuracy > best else stale + 1
        if accuracy > best:
            best, weights = accuracy, twin.model.get_weights()
    twin.model.set_weights(weights)
    return {
        "accuracy": _accuracy(twin, images["test"]),
        "epochs": epochs,
        "images": len(images["train"]),
    }


def time_scratch(args, task: Task, twin: twins.Twin) -> dict:
    """Seconds to train on an image, and to answer for one, of the second run.

    They are the same for all tasks of an architecture and of images of one
    shape: how many classes there are costs next to nothing.
    """
    images = _images(args, task, "train")
    found = {"train": twin.epoch, "answer": lambda own: _accuracy(twin, own)}
    for name, run in found.items():
        for _ in range(2):  # The first run traces.
            start = time.perf_counter()
            run(images)
            seconds = time.perf_counter() - start
        found[name] = seconds / len(images)
    return found


def _accuracy(twin, images):
    return float(
        np.mean(twin.logits(images.images).argmax(axis=1) == images.labels)
    )


def _images(args, task, split):
    """Images of a task, all as those of its first data set."""
    pieces, labels = [], []
    for label, (name, index) in enumerate(task.classes):
        found = {
            "train": lambda: reuse_sources.pool(
                name, args.data_dir, reuse_sources.POOLS[name]
            ),
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


class Scratch:
    """The models from scratch; one compiled graph serves many tasks."""

    def __init__(self, args):
        self.args = args
        self._twins = {}

    def trained(self, number: int, task: Task) -> dict:
        """Trains a task's model, or reads what an earlier call kept."""
        key = self._key(number, task)
        path = self.args.work / f"scratch-{task.name}-{key[0]}.json"
        found = part(path, self._train, number, task, key)
        return {"architecture": key[0], **found}

    def seconds(self, number: int, task: Task, trained: dict) -> float:
        """How long the training took, by steps timed on an idle machine."""
        name, shape, _ = self._key(number, task)
        text = "x".join(map(str, shape))
        path = self.args.work / f"time-{name}-{text}.json"
        each = part(path, self._time, number, task)
        few = reuse_sources.FEW * len(task.classes)
        return trained["epochs"] * (
            trained["images"] * each["train"] + few * each["answer"]
        )

    def _key(self, number, task):
        names = self.args.architectures
        data = reuse_sources.load(task.classes[0][0], self.args.data_dir)
        shape = data.train.images.shape[1:]
        return names[number % len(names)], shape, len(task.classes)

    def _train(self, number, task, key):
        return scratch(self.args, task, self._twin(key), number)

    def _time(self, number, task):
        return time_scratch(
            self.args, task, self._twin(self._key(number, task))
        )

    def _twin(self, key):
        if key not in self._twins:
            self._twins[key] = twins.Twin(
                functools.partial(build, *key), learning_rate=0.01, momentum=0.9
            )
        return self._twins[key]


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
    ours = reuse(answers, task)
    others = {
        "team": reuse(answers, task, largest=2),
        "fit": reuse(answers, task, calibration="fit"),
        "wrong_class": reuse(answers, task, shift=1),
        "papers_split": reuse(answers, task, splits=("first", "rest")),
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
    draws = np.random.default_rng(0).choice(gap, (2000, len(gap))).mean(axis=1)
    seconds = [
        sum(row[f"{name}_seconds"] for row in own)
        for name in ("reuse", "scratch")
    ]
    return {
        "tasks": len(own),
        "accuracy": {n: float(accuracy[n].mean()) for n in accuracy},
        "gap_to_scratch": float(gap.mean()),
        "gap_interval": [float(v) for v in np.percentile(draws, [2.5, 97.5])],
        "worst_gap": float(gap.min()),
        **{
            f"{name}_gap": float(gaps[name].mean())
            for name in ("team", "fit", "last_layer", "papers_split")
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
        "team_gap",
        "last_layer_gap",
        "papers_split_gap",
        "wrong_class_control_gap",
        "time_ratio",
    )
    update_summary("new_task", {key: summary[key] for key in keys})


if __name__ == "__main__":
    main()
