"""Models of new tasks from source models that are there: their answers."""

import time

import keras
import numpy as np
import reuse_sources
import twins
from common import part
from reuse_sources import layer_of
from reuse_sources import with_support
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tasks import Task

from kmod.composition.sharing import merge_models
from kmod.masks.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
from kmod.reuse.separation import best_columns
from kmod.reuse.separation import teams
from kmod.reuse.support import support_options
from kmod.zoo.build import build

MOST_MODULES = 5  # Of one source model that a task takes.
# Which of a class's test images a split has.
PARTS = {
    "test": lambda rows: rows,
    "first": lambda rows: rows[: len(rows) // 5],
    "rest": lambda rows: rows[len(rows) // 5 :],
}


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
    alone: bool = True,
) -> dict:
    """Chooses and calibrates modules; returns accuracy and seconds.

    Args:
        answers: What the source models say.
        task: The task.
        shift: Which other class's module to take, as a control.
        largest: Modules in a class's team, at most.
        splits: Images to choose on, and to measure on.
        calibration: `"joint"` or `"fit"`, as in a spec.
        alone: Whether no other modules of the same sources may support them.
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
    used = {
        (name, number)
        for (name, _), team in zip(task.classes, chosen)
        for number in team
    }
    if not alone:
        options = _options(answers, task, chosen, sorted(used), len(few))
        more = [_further(answers, task, options, split) for split in splits]
        own, new = with_support(own, new, *more, few)
    weights, bias = layer_of(own, few, calibration)
    seconds = time.perf_counter() - start
    for name in task.data:
        modules = sum(data == name for data, _ in task.classes)
        for source in answers.sources[name]:
            times = answers.times[name, source["architecture"]]
            each = (times["most"] - times["one"]) / (MOST_MODULES - 1)
            seconds += (times["one"] + (modules - 1) * each) * len(few)
            if not alone and (name, source["number"]) in used:
                further = 10 - modules  # They run once the others are chosen.
                seconds += (times["one"] + (further - 1) * each) * len(few)
    right = (new @ weights + bias).argmax(axis=1) == test
    return {"accuracy": float(right.mean()), "seconds": float(seconds)}


def _options(answers, task, chosen, used, num_images):
    """Lists what may support the choice, as `kmod choose` does."""
    own = {
        (name, team[0], index)
        for (name, index), team in zip(task.classes, chosen)
        if len(team) == 1
    }
    others = (
        (name, number, index)
        for name, number in used
        for index in range(10)
        if (name, number, index) not in own
    )
    elsewhere = (
        (name, source["number"], index)
        for name, index in task.classes
        for source in answers.sources[name]
        if (name, source["number"]) not in used
    )

    def is_known(module):
        return (module[0], module[2]) in task.classes

    return support_options(others, elsewhere, is_known, num_images)


def _further(answers, task, options, split):
    """Returns the scores of each option, `(n, modules)`."""
    return {
        modules: np.reshape(
            [
                answers.of(
                    task, name, answers.sources[name][number], split, "log_odds"
                )[:, index]
                for name, number, index in modules
            ],
            (len(modules), len(answers.truth(task, split))),
        ).T
        for modules in options
    }


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


def new_layer():
    """Makes a classifier of what the last hidden layer says."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=200)
    )


def last_layer(answers: Answers, task: Task) -> float:
    """Accuracy of the best source with a new last layer."""
    few, test = answers.truth(task, "few"), answers.truth(task, "test")
    best, best_score = None, -1.0
    for name in task.data:
        for source in answers.sources[name]:
            features = answers.of(task, name, source, "few", "features")
            layer = new_layer()
            score = cross_val_score(layer, features, few, cv=4).mean()
            if score > best_score:
                fitted = layer.fit(features, few)
                best, best_score = (name, source, fitted), score
    name, source, fitted = best
    features = answers.of(task, name, source, "test", "features")
    return float(np.mean(fitted.predict(features) == test))
