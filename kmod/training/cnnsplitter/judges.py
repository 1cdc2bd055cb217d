"""Labelled images that candidates are measured on."""

import numpy as np

from kmod.masks.modular_model import ModularModel
from kmod.training.cnnsplitter.alignment import align
from kmod.training.cnnsplitter.candidates import Candidates


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
