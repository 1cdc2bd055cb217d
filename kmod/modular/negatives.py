"""Negatives: images of anything, of which modules learn to answer no.

They have no labels. A training step sees some of them beside the images that
it is for, and no metric counts them.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.data.batches import count_steps
from kmod.data.disk_arrays import rows
from kmod.data.image_data import UnlabelledImages
from kmod.data.load import unlabelled_of
from kmod.data.replicas import mean_over_images
from kmod.data.replicas import num_shards
from kmod.data.streaming import DiskBatches
from kmod.data.streaming import streamed
from kmod.errors import UsageError
from kmod.modular.stem import cache_stem

IMAGES, NEGATIVES = "images", "negatives"
SHARE = 0.25  # Negatives in a step, for each image that it is for.
# Of a negative's loss, as of the same term of `ModuleLoss`. With 1 modules
# lose 2.5 points on their own images (benchmarks/trials.md).
WEIGHT = 0.2


def check_negatives(
    negatives: Any,
    shape: Sequence[int],
    value_range: tuple[float, float] | None,
) -> UnlabelledImages:
    """Returns negatives if a source model takes such images.

    Args:
        negatives: What `unlabelled_of` takes.
        shape: Shape of the images that the source model takes.
        value_range: Smallest and largest pixel value that it takes; `None` if
            that is not known.

    Raises:
        UsageError: If they are of another shape or range of values.
        TypeError, ValueError: As `unlabelled_of`.
    """
    try:
        found = unlabelled_of(negatives, value_range)
    except UsageError as error:
        raise UsageError(
            "`negatives` must be scaled as the source model takes images. "
            f"{error}"
        ) from error
    own, shape = found.images.shape[1:], tuple(shape)
    if own != shape:
        raise UsageError(
            "`negatives` must have the shape of the images that the source "
            f"model takes, {shape}. Received: images of shape {own}. Bring "
            "them to it, as the option `--negatives` of the commands does."
        )
    low, high = found.value_range
    if value_range is not None and (low, high) != tuple(value_range):
        start, end = value_range
        raise UsageError(
            "`negatives` must have the range of values that the source model "
            f"takes, {start:g} to {end:g}. Received: {low:g} to {high:g}. "
            "Scale them, as the option `--negatives` of the commands does."
        )
    return found


def negatives_record(negatives: UnlabelledImages) -> dict[str, Any]:
    """Returns what a store's manifest says of negatives."""
    return {"name": negatives.name, "num_images": len(negatives)}


def with_negatives(
    arguments: Mapping[str, Any], negatives: np.ndarray, stem: keras.Model
) -> dict[str, Any]:
    """Returns arguments of `keras.Model.fit` that give negatives, too.

    In place of its images a batch then has a dict of them as `images` and of
    `SHARE` times as many `negatives`.

    Args:
        arguments: Arguments of `fit`, at least `x` and `epochs`.
        negatives: Array `(n, ...)` of images as `stem` takes them.
        stem: What is run over arrays ahead of the training. It is run over
            the negatives, too, if training draws as many.
    """
    steps = count_steps({"validation_split": 0, **arguments})
    labels = arguments.get("y")
    if labels is not None:
        num_drawn = len(labels) * SHARE * arguments["epochs"]
        if len(negatives) <= num_drawn:
            negatives = cache_stem(stem, negatives)
    arguments = streamed(arguments, indexed=True)
    batches = NegativeBatches(arguments["x"], negatives, steps)
    if batches.num_batches is None:
        arguments |= {"steps_per_epoch": steps, "shuffle": False}
    return {**arguments, "x": batches}


class NegativeBatches(keras.utils.PyDataset):
    """Batches of training data with negatives beside their images.

    Which negatives a batch has follows from its number, and with arrays from
    the epoch as well. So a training that was cut short draws the same.

    Args:
        data: Batched data that `fit` takes: `DiskBatches` of arrays, a
            `PyDataset`, a `tf.data.Dataset` or another iterable.
        negatives: Array `(n, ...)`, or dict of arrays.
        steps: Integer, batches to an epoch.
    """

    def __init__(self, data, negatives, steps):
        self._is_indexed = isinstance(data, keras.utils.PyDataset)
        names = "workers", "use_multiprocessing", "max_queue_size"
        super().__init__(
            **(
                {name: getattr(data, name) for name in names}
                if self._is_indexed
                else {}
            )
        )
        self.data = data
        self.negatives = negatives
        self.steps = steps
        self._epoch = 0
        self._batches = None if self._is_indexed else _endless(data)

    @property
    def num_batches(self):
        return self.data.num_batches if self._is_indexed else None

    def __getitem__(self, index):
        batch = self.data[index] if self._is_indexed else next(self._batches)
        images, *others = batch
        count = max(1, round(SHARE * len(tree.flatten(images)[0])))
        count += -count % num_shards()
        draw = np.random.default_rng([self._epoch, index % self.steps])
        drawn = draw.integers(len(tree.flatten(self.negatives)[0]), size=count)
        negatives = tree.map_structure(
            lambda array: rows(array, drawn), self.negatives
        )
        return {IMAGES: images, NEGATIVES: negatives}, *others

    def on_epoch_begin(self):
        if self._is_indexed:
            self.data.on_epoch_begin()
        is_whole = self.steps == self.num_batches
        if is_whole and isinstance(self.data, DiskBatches):
            self._epoch = np.random.randint(2**31)

    def on_epoch_end(self):
        if self._is_indexed:
            self.data.on_epoch_end()


def _endless(data):
    """Yields the batches of a data set again and again."""
    while True:
        yield from getattr(data, "as_numpy_iterator", data.__iter__)()


def rejection_loss(scores, num_modules: int):
    """Measures how far modules are from answering no.

    It is the binary cross-entropy of `ModuleLoss`, for images of no class.

    Args:
        scores: Raw scores `(batch, rows)` of modules that see negatives.
        num_modules: Integer; modules that do not see an image count as much
            as those that do.

    Returns:
        Scalar: the sum over modules, averaged over images, with its weight.

    Reference:

    - [Hendrycks et al., 2019](https://arxiv.org/abs/1812.04606): outlier
      exposure.
    """
    each = mean_over_images(ops.softplus(scores))
    return SHARE * WEIGHT * num_modules * each
