"""Labelled images that candidates are measured on."""

import keras
import numpy as np
from keras import ops

from kmod.modular.cnnsplitter.alignment import align
from kmod.modular.front import cache_front
from kmod.modular.front import fits_memory
from kmod.modular.masked_network import MaskedNetwork
from kmod.modular.modular_model import ModularModel

ROWS_PER_STEP = 2048


class CandidateNetwork(keras.Model):
    """The masked network with one row for each of many candidates.

    Args:
        modular: Modular model whose source and masked layers to use.
        num_rows: Integer, number of candidates.

    Output shape:
        `(batch, num_rows)`: each candidate's score.
    """

    def __init__(self, modular: ModularModel, num_rows: int):
        super().__init__()
        self.flat_source = modular.flat_source
        self.num_classes = modular.num_classes
        self.network = MaskedNetwork(
            modular.graph, modular.placement.may_go, {}, {}
        )
        num_groups = len(modular.placement.sizes)
        self.mask = self._weight((num_rows, num_groups), "float32")
        self.classes = self._weight((num_rows,), "int32")

    def _weight(self, shape, dtype):
        return self.add_weight(
            shape=shape,
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def call(self, inputs):
        logits = self.network(inputs, self.mask.value, None, None, None)
        own = ops.one_hot(self.classes.value, self.num_classes)
        return ops.sum(logits * (own - 1 / self.num_classes), axis=-1)


class Candidates:
    """Scores candidates on the same images, many at once.

    A *candidate* is a kernel mask for one class. Its score is the class's own
    logit minus the mean of all, what an untrained head answers. What no mask
    changes is computed once per image and kept, if there is room.

    Args:
        modular: Modular model whose source and masked layers to use.
        images: Images `(n, ...)` to score.
        num_rows: Integer, candidates to a call. Fewer are filled up.
    """

    def __init__(
        self, modular: ModularModel, images: np.ndarray, num_rows: int = 64
    ):
        self.network = CandidateNetwork(modular, num_rows)
        self.num_rows = num_rows
        self.num_images = len(images)
        self.images = images
        if fits_memory(self.network.network.border_shapes, len(images)):
            self.images = cache_front(self.network, images)

    def score(self, masks: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Scores candidates on all images.

        Args:
            masks: Array `(num_candidates, num_groups)` of 0 and 1.
            classes: Integer array `(num_candidates,)`, the class of each.

        Returns:
            float32 array `(num_candidates, num_images)`.
        """
        scores = np.empty((len(masks), self.num_images), "float32")
        for start in range(0, len(masks), self.num_rows):
            part = slice(start, start + self.num_rows)
            scores[part] = self._score_rows(masks[part], classes[part])
        return scores

    def _score_rows(self, masks, classes):
        empty = self.num_rows - len(masks)
        self.network.mask.assign(np.pad(masks, ((0, empty), (0, 0))))
        self.network.classes.assign(np.pad(classes, (0, empty)))
        scores = self.network.predict(
            self.images,
            batch_size=max(1, ROWS_PER_STEP // self.num_rows),
            verbose=0,
        )
        return scores[:, : len(masks)].T


class Judges:
    """Scores candidates on images whose classes are known.

    A candidate's score is brought as near to the source model's as a line
    can, since heads can do that much and scores of unlike modules would not
    compare without it.

    Args:
        modular: Modular model whose source and masked layers to use.
        images: Images `(n, ...)`.
        labels: Integer class indices `(n,)`.
        num_rows: Integer, candidates to a call.
    """

    def __init__(
        self,
        modular: ModularModel,
        images: np.ndarray,
        labels: np.ndarray,
        num_rows: int,
    ):
        logits = modular.flat_source.predict(images, batch_size=256, verbose=0)
        self.source_scores = (logits - logits.mean(axis=1, keepdims=True)).T
        self.labels = labels
        self.candidates = Candidates(modular, images, num_rows)

    def score(self, masks: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Scores candidates on all images.

        Args:
            masks: Array `(num_candidates, num_groups)` of 0 and 1.
            classes: Integer array `(num_candidates,)`, the class of each.

        Returns:
            float32 array `(num_candidates, num_images)`.
        """
        scores = self.candidates.score(masks, classes)
        scale, shift = align(scores, self.source_scores[classes])
        return scores * scale[:, None] + shift[:, None]

    def source_accuracy(self, classes: np.ndarray) -> float:
        """Returns the source model's accuracy among some classes."""
        seen = np.isin(self.labels, classes)
        if not seen.any():
            return 0.0
        best = self.source_scores[classes][:, seen].argmax(axis=0)
        return float(np.mean(classes[best] == self.labels[seen]))
