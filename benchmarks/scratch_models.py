"""Models of new tasks, trained from scratch."""

import functools
import time

import numpy as np
import reuse_sources
import twins
from common import part
from tasks import Task

from kmod.data.image_data import LabelledImages
from kmod.zoo.augmented_images import AugmentedImages
from kmod.zoo.build import build

PATIENCE = 5
HELD_OUT = 5  # Every fifth image tells when to stop.
OPTIMIZER = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4}


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
        held = trained["images"] / HELD_OUT
        return trained["epochs"] * (
            (trained["images"] - held) * each["train"] + held * each["answer"]
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
                functools.partial(build, *key), **OPTIMIZER
            )
        return self._twins[key]


def scratch(args, task: Task, twin: twins.Twin, seed: int) -> dict:
    """Trains a model on all images of the classes in the pools.

    As the papers do (GradSplitter's code): a fifth of the images is held out,
    the rest is mirrored and moved at random (not where all classes are
    digits), the learning rate is constant, and training stops after `PATIENCE`
    epochs without gain. Batches are of 32 or 16 images instead of 64, since
    there are few.
    """
    pool, test = (_images(args, task, split) for split in ("train", "test"))
    is_held = np.arange(len(pool)) % HELD_OUT == HELD_OUT - 1
    train, held = (
        pool.take(np.flatnonzero(own)) for own in (~is_held, is_held)
    )
    given = _changed(task, train, seed)
    twin.reset(seed)
    best, weights, stale, epochs = -1.0, None, 0, 0
    while epochs < args.scratch_epochs and stale < PATIENCE:
        twin.epoch(given)
        epochs += 1
        accuracy = _accuracy(twin, held)
        stale = 0 if accuracy > best else stale + 1
        if accuracy > best:
            best, weights = accuracy, twin.model.get_weights()
    twin.model.set_weights(weights)
    return {
        "accuracy": _accuracy(twin, test),
        "epochs": epochs,
        "images": len(pool),
    }


def _changed(task, images, seed):
    if task.data == ["mnist"]:
        return images
    return AugmentedImages(images, twins.batch_size(images), seed)


def time_scratch(args, task: Task, twin: twins.Twin) -> dict:
    """Seconds to train on an image, and to answer for one, of the second run.

    They are taken to be the same for all tasks of an architecture and of images
    of one shape, also where images are not changed: how many classes there are
    costs next to nothing, and changing images little.
    """
    images = _images(args, task, "train")
    found = {"train": twin.epoch, "answer": lambda own: _accuracy(twin, own)}
    for name, run in found.items():
        given = _changed(task, images, 0) if name == "train" else images
        for _ in range(2):  # The first run traces.
            start = time.perf_counter()
            run(given)
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
