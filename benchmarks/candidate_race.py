"""Times how fast a generation of candidates is scored."""

import time

import keras
import numpy as np

from kmod.modular.cnnsplitter.judges import Candidates
from kmod.modular.modular_model import ModularModel

CANDIDATES = 64
TURNS = 3


def race(source: keras.Model, mask_from: str, images: np.ndarray) -> dict:
    """Times a generation's evaluation against one candidate at a time.

    Both take turns, and the best turn of each counts, since other work on the
    machine slows either at random.

    Args:
        source: Source model.
        mask_from: First layer whose kernels candidates may lack.
        images: Array `(n, ...)`.

    Returns:
        Candidate-images a second of both, in each turn and the best.
    """
    modular = ModularModel(source, mask_from=mask_from)
    rng = np.random.default_rng(0)
    shape = (CANDIDATES, modular.kernels.num_groups)
    masks = np.maximum(rng.random(shape) < 0.5, ~modular.placement.may_go)
    masks = masks.astype("float32")
    classes = np.arange(CANDIDATES) % modular.num_classes
    together, alone = Candidates(modular, images), OneByOne(modular, images)
    few = CANDIDATES // 8
    together.score(masks, classes)  # The first calls compile.
    alone.score(masks[:1], classes[:1])
    turns = [
        (
            candidate_images_per_second(together, masks, classes),
            candidate_images_per_second(alone, masks[:few], classes[:few]),
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


class OneByOne(Candidates):
    """One candidate at a time through the whole masked model."""

    def __init__(self, modular, images):
        super().__init__(modular, images[:1], num_rows=1)
        self.images, self.num_images = images, len(images)

    def _score_rows(self, masks, classes):
        self.network.mask.assign(masks)
        self.network.classes.assign(classes)
        return self.network.predict(self.images, batch_size=256, verbose=0).T


def candidate_images_per_second(candidates, masks, classes):
    start = time.perf_counter()
    candidates.score(masks, classes)
    seconds = time.perf_counter() - start
    return len(masks) * candidates.num_images / seconds
