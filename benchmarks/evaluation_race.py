"""Times how fast a generation of individuals is scored."""

import time

import keras
import numpy as np

from kmod.modular.cnnsplitter.evaluator import Evaluator
from kmod.modular.modular_model import ModularModel

INDIVIDUALS = 64
TURNS = 3


def race(source: keras.Model, mask_from: str, images: np.ndarray) -> dict:
    """Times a generation's evaluation against one individual at a time.

    Both take turns, and the best turn of each counts, since other work on the
    machine slows either at random.

    Args:
        source: Source model.
        mask_from: First layer whose kernels individuals may lack.
        images: Array `(n, ...)`.

    Returns:
        Individual-images a second of both, in each turn and the best.
    """
    modular = ModularModel(source, mask_from=mask_from)
    rng = np.random.default_rng(0)
    shape = (INDIVIDUALS, modular.kernels.num_groups)
    masks = np.maximum(rng.random(shape) < 0.5, ~modular.placement.may_go)
    masks = masks.astype("float32")
    classes = np.arange(INDIVIDUALS) % modular.num_classes
    unknown = np.zeros(len(images), "int64")  # Raw scores take no labels.
    together = Evaluator(modular, images, unknown)
    alone = OneByOne(modular, images, unknown)
    few = INDIVIDUALS // 8
    together.raw_scores(masks, classes)  # The first calls compile.
    alone.raw_scores(masks[:1], classes[:1])
    turns = [
        (
            images_per_second(together, masks, classes),
            images_per_second(alone, masks[:few], classes[:few]),
        )
        for _ in range(TURNS)
    ]
    best = np.max(turns, axis=0)
    return {
        "turns": turns,
        "together": best[0],
        "one_by_one": best[1],
        "speed_up": best[0] / best[1],
    }


class OneByOne(Evaluator):
    """One individual at a time through the whole masked model."""

    def __init__(self, modular, images, labels):
        super().__init__(modular, images[:1], labels[:1], num_rows=1)
        self.images, self.labels = images, labels

    def _score_rows(self, masks, classes):
        self.network.masks.mask.assign(masks)
        self.network.classes.assign(classes)
        return self.network.predict(self.images, batch_size=256, verbose=0).T


def images_per_second(evaluator, masks, classes):
    start = time.perf_counter()
    evaluator.raw_scores(masks, classes)
    seconds = time.perf_counter() - start
    return len(masks) * len(evaluator.labels) / seconds
