"""Models of new tasks, made of the source models that are there."""

import time

import numpy as np
from reuse_sources import combined
from reuse_sources import layer_of
from reuse_sources import with_auxiliary
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from task_answers import MOST_MODULES
from task_answers import Answers
from tasks import Task

from kmod.selection.module_choice import auxiliary_options
from kmod.selection.module_choice import best_modules


def reuse(
    answers: Answers,
    task: Task,
    *,
    shift: int = 0,
    largest: int = 1,
    splits: tuple[str, str] = ("few", "test"),
    calibration: str = "joint",
    auxiliary: bool = False,
) -> dict:
    """Chooses and calibrates modules; returns accuracy and seconds.

    Args:
        answers: What the source models say.
        task: The task.
        shift: Which other class's module to take, as a control.
        largest: Modules for each class, at most.
        splits: Images to choose on, and to measure on.
        calibration: `"joint"` or `"fit"`, as in a spec.
        auxiliary: Whether other modules of the same sources may join.
    """
    few, test = (answers.truth(task, split) for split in splits)
    columns = [_columns(answers, task, shift, split) for split in splits]
    start = time.perf_counter()
    own, new = ([combined(c, largest) for c in each] for each in columns)
    chosen = best_modules(own, few)
    own, new = (
        np.stack([each[key] for each, key in zip(found, chosen)], axis=1)
        for found in (own, new)
    )
    used = {
        (name, number)
        for (name, _), numbers in zip(task.classes, chosen)
        for number in numbers
    }
    if auxiliary:
        options = _options(answers, task, chosen, sorted(used), len(few))
        more = [_further(answers, task, options, split) for split in splits]
        own, new = with_auxiliary(own, new, *more, few)
    weights, bias = layer_of(own, few, calibration)
    seconds = time.perf_counter() - start
    for name in task.data:
        modules = sum(data == name for data, _ in task.classes)
        for source in answers.sources[name]:
            times = answers.times[name, source["architecture"]]
            each = (times["most"] - times["one"]) / (MOST_MODULES - 1)
            seconds += (times["one"] + (modules - 1) * each) * len(few)
            if auxiliary and (name, source["number"]) in used:
                further = 10 - modules  # They run once the others are chosen.
                seconds += (times["one"] + (further - 1) * each) * len(few)
    right = (new @ weights + bias).argmax(axis=1) == test
    return {"accuracy": float(right.mean()), "seconds": float(seconds)}


def _options(answers, task, chosen, used, num_images):
    """Lists which modules may join the choice, as `kmod choose` does."""
    own = {
        (name, numbers[0], index)
        for (name, index), numbers in zip(task.classes, chosen)
        if len(numbers) == 1
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

    return auxiliary_options(others, elsewhere, is_known, num_images)


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
