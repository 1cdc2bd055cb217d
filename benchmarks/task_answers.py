"""What all source models say of the images of a task."""

import time

import keras
import numpy as np
import reuse_sources
import twins
from common import part
from tasks import Task

from kmod.graph.sharing import merge_models
from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
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
            (f"module_{index}", log_odds_model(cut_module(modular, index)))
            for index in range(count)
        )
        model = keras.Model(image, outputs)
        for _ in range(2):
            start = time.perf_counter()
            model.predict(images, batch_size=256, verbose=0)
            found[key] = (time.perf_counter() - start) / len(images)
    return found
