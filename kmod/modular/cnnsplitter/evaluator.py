"""Scores individuals, kernel masks for one class each, on labelled images."""

import keras
import numpy as np
from keras import ops

from kmod.data.streaming import predict
from kmod.layers import KernelMasks
from kmod.modular.masked_network import MaskedNetwork
from kmod.modular.modular_model import ModularModel
from kmod.modular.stem import cache_stem

ROWS_PER_STEP = 2048


class PopulationNetwork(keras.Model):
    """The masked network with one row for each of many individuals.

    Answers their raw scores, `(batch, num_rows)`.
    """

    def __init__(self, modular: ModularModel, num_rows: int):
        super().__init__()
        self.num_classes = modular.num_classes
        self.masks = KernelMasks(num_rows, len(modular.placement.sizes))
        network = MaskedNetwork(
            modular.graph, self.masks, modular.placement.may_go
        )
        self.stem, self.body = network.stem, network.body
        self.classes = self.add_weight(
            shape=(num_rows,),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def call(self, inputs):
        if not isinstance(inputs, dict):
            inputs = self.stem(inputs, training=False)
        values = [inputs[name] for name in self.stem.output]
        logits = self.body([*values, self.masks(), None], training=False)
        own = ops.one_hot(self.classes.value, self.num_classes)
        return ops.sum(logits * (own - 1 / self.num_classes), axis=-1)


class Evaluator:
    """Scores individuals on the same images, many at once.

    An individual's raw score is its class's logit minus the mean of all, what
    an untrained head answers. Its score is as near to the source model's as a
    line brings that, since heads can do that much and scores of unlike
    modules would not compare without it. What no mask changes is computed
    once per image and kept, if there is room.

    Args:
        modular: Modular model whose source and masked layers to use.
        images: Images `(n, ...)`.
        labels: Integer class indices `(n,)`.
        num_rows: Integer, individuals to a call. Fewer are filled up.
    """

    def __init__(
        self,
        modular: ModularModel,
        images: np.ndarray,
        labels: np.ndarray,
        num_rows: int = 64,
    ):
        self.source_scores = _source_scores(modular, images)
        self.labels = labels
        self.network = PopulationNetwork(modular, num_rows)
        self.num_rows = num_rows
        self.images = cache_stem(self.network.stem, images)

    def scores(self, masks: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Scores individuals on all images.

        Args:
            masks: Array `(num_individuals, num_groups)` of 0 and 1.
            classes: Integer array `(num_individuals,)`, the class of each.

        Returns:
            float32 array `(num_individuals, num_images)`.
        """
        scores = self.raw_scores(masks, classes)
        scale, shift = align(scores, self.source_scores[classes])
        return scores * scale[:, None] + shift[:, None]

    def raw_scores(self, masks: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Returns what untrained heads answer, in the form of `scores`."""
        scores = np.empty((len(masks), len(self.labels)), "float32")
        for start in range(0, len(masks), self.num_rows):
            part = slice(start, start + self.num_rows)
            scores[part] = self._score_rows(masks[part], classes[part])
        return scores

    def _score_rows(self, masks, classes):
        empty = self.num_rows - len(masks)
        self.network.masks.mask.assign(np.pad(masks, ((0, empty), (0, 0))))
        self.network.classes.assign(np.pad(classes, (0, empty)))
        scores = predict(
            self.network,
            self.images,
            max(1, ROWS_PER_STEP // self.num_rows),
        )
        return scores[:, : len(masks)].T

    def source_accuracy(self, classes: np.ndarray) -> float:
        """Returns the source model's accuracy among some classes."""
        seen = np.isin(self.labels, classes)
        if not seen.any():
            return 0.0
        best = self.source_scores[classes][:, seen].argmax(axis=0)
        return float(np.mean(classes[best] == self.labels[seen]))


def align(
    scores: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits lines from scores to expected ones, by least squares.

    Args:
        scores: Array `(num_modules, num_images)`.
        expected: Array of that shape.

    Returns:
        Tuple `(scale, shift)` of float32 arrays `(num_modules,)`, no scale
        below 0.
    """
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = np.square(centred).sum(axis=1)
    scale = (centred * expected).sum(axis=1) / np.maximum(spread, 1e-12)
    scale = np.maximum(scale, 0)
    shift = expected.mean(axis=1) - scale * scores.mean(axis=1)
    return scale.astype("float32"), shift.astype("float32")


def align_heads(modular: ModularModel, images: np.ndarray) -> None:
    """Lets linear heads answer as near to the source model as a line can.

    Args:
        modular: Modular model with its masks set and untrained heads.
        images: Validation images `(n, ...)`.
    """
    scores = predict(modular, images, 64).T
    scale, shift = align(scores, _source_scores(modular, images))
    heads = modular.heads
    kernel = ops.convert_to_numpy(heads.kernel)
    heads.kernel.assign(kernel * scale[:, None])
    heads.bias.assign(shift)


def _source_scores(modular, images):
    """Returns the source's logits minus their mean, `(num_classes, n)`."""
    logits = predict(modular.flat_source, images)
    return (logits - logits.mean(axis=1, keepdims=True)).T
