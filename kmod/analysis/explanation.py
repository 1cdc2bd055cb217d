"""What a module looks at: where in an image its score comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kmod.data.batches import to_arrays
from kmod.data.image_data import LabelledImages
from kmod.data.streaming import predict
from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph.channel_graph import channel_graph
from kmod.graph.internals import made_by
from kmod.graph.rebuild import rebuild
from kmod.modules.class_module import ClassModule
from kmod.modules.cut import log_odds_model

TOLERANCE = 1e-4  # Of an exact map, relative to the largest score.
BATCH_SIZE = 256
MOST_VALUES = 2**24  # Of feature maps that lie in memory at a time.
FOR, AGAINST = (255, 122, 0), (43, 108, 255)  # As in the report's `page.css`.
DENSEST = 0.8  # Of a map that can be seen through.
CONTRAST = 1.5  # Places that add little recede.


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Class activation maps of images, and the scores they explain.

    Attributes:
        layer: Name of the layer whose maps are looked at: the last one that
            still has places.
        scores: float32 array `(n,)`: log-odds of the module, or the logit of
            the class.
        maps: float32 array `(n, height, width)`, what each place adds to the
            score times the number of places, above 0 for the class and below
            0 against it.
        bias: The score if the layer's maps were 0.
        is_exact: Whether everything behind the maps is linear, so that
            `maps.mean(axis=(1, 2)) + bias` are the scores. If not, a place's
            value is what the score loses without that place alone.
    """

    layer: str
    scores: np.ndarray
    maps: np.ndarray
    bias: float
    is_exact: bool

    @property
    def gap(self) -> float:
        """Largest difference between scores and what maps add up to."""
        found = self.maps.mean(axis=(1, 2), dtype="float64") + self.bias
        return float(np.abs(found - self.scores).max())

    def most_confident(self, count: int = 1) -> np.ndarray:
        """Returns the indices of the images of the highest scores, in order."""
        return np.argsort(-self.scores, kind="stable")[:count]

    def least_confident(self, count: int = 1) -> np.ndarray:
        """Returns the indices of the images of scores nearest 0, in order."""
        return np.argsort(np.abs(self.scores), kind="stable")[:count]

    def __repr__(self):
        how = "exact" if self.is_exact else "not exact"
        return f"<Explanation of {len(self.scores)} images, {how}>"


def explain(
    model: ClassModule | keras.Model,
    images: Any,
    class_index: int | None = None,
) -> Explanation:
    """Shows from where in images a module's score comes.

    A class activation map says what every place of the last feature maps adds
    to the score. Each place is left out in turn, set to 0 in all feature
    maps, and what the score loses is the place's part. Where all that follows
    is linear, such as global average pooling, a Dense layer, head and
    calibration, the parts add up: the map is that of Zhou et al. and exact.
    Where a hidden layer follows, they do not, and `is_exact` is `False`.

    Args:
        model: A module; or a classifier, whose logits are explained.
        images: Array `(n, height, width, channels)` as the model takes them,
            or labelled images, whose labels are not looked at.
        class_index: The class of a classifier. A module has but one.

    Returns:
        The `Explanation`.

    Raises:
        UnsupportedModelError: If the model has no feature maps, or part of
            the score passes them by.
        UsageError: If `class_index` is missing, or none of the model's.

    Example:

    >>> found = kmod.explain(store["cat"], images)
    >>> found.maps[found.most_confident(3)].shape
    (3, 8, 8)

    Reference:

    - [Zhou et al., 2016](https://arxiv.org/abs/1512.04150), equations 1 and 2:
      class activation maps.
    - [Zeiler and Fergus, 2014](https://arxiv.org/abs/1311.2901), section 4.2:
      what a score loses without a part of the image.
    """
    images = _array(images)
    part = Explainer.of(model, class_index)
    return part.explain(images)


@dataclasses.dataclass(frozen=True, eq=False)
class Explainer:
    """A model in two parts, in front of and behind its last feature maps.

    Attributes:
        layer: Name of the layer that makes the maps.
        front: Model of images to maps and score.
        tail: Model of maps to the score.
    """

    layer: str
    front: keras.Model
    tail: keras.Model

    @classmethod
    def of(
        cls, model: ClassModule | keras.Model, class_index: int | None = None
    ) -> Explainer:
        """Divides a model; see `explain`."""
        return cls.of_scored(_scored(model, class_index), model_name(model))

    @classmethod
    def of_scored(cls, scored: keras.Model, name: str) -> Explainer:
        """Divides a flat model of images to one score `(batch, 1)`.

        Args:
            scored: The model.
            name: What a message calls it.
        """
        maps = _last_maps(scored)
        score = scored.outputs[0]
        try:
            tail = keras.Model(maps, score)
        except ValueError as error:
            raise UnsupportedModelError(
                "A class activation map needs feature maps that the whole "
                f"score comes through. Received: {name}, where "
                "part of the score passes the maps of "
                f"{made_by(maps).name!r} by. There is no map "
                "of such a model."
            ) from error
        front = keras.Model(scored.inputs[0], [maps, score])
        return cls(made_by(maps).name, front, tail)

    def explain(self, images: np.ndarray) -> Explanation:
        """Explains images `(n, height, width, channels)`."""
        features, scores = predict(self.front, images, BATCH_SIZE)
        zero = np.zeros((1, *features.shape[1:]), "float32")
        bias = float(predict(self.tail, zero)[0, 0])
        found = Explanation(
            self.layer, scores[:, 0], self._maps(features, scores), bias, True
        )
        largest = max(1.0, float(np.abs(found.scores).max()))
        is_exact = found.gap <= TOLERANCE * largest
        return dataclasses.replace(found, is_exact=is_exact)

    def _maps(self, features, scores):
        """Leaves out every place in turn."""
        count, height, width, channels = features.shape
        places = height * width
        image, place = np.divmod(np.arange(count * places), places)
        row, column = np.divmod(place, width)
        found = np.empty(count * places, "float32")
        step = max(MOST_VALUES // (places * channels), 1)
        for start in range(0, len(found), step):
            own = slice(start, start + step)
            without = features[image[own]]
            without[np.arange(len(without)), row[own], column[own]] = 0
            rest = predict(self.tail, without, BATCH_SIZE)
            found[own] = scores[image[own], 0] - rest[:, 0]
        return places * found.reshape(count, height, width)


def colours_of(maps: np.ndarray, largest: float) -> np.ndarray:
    """Returns maps as images that can be laid on others.

    Args:
        maps: Float array `(..., height, width)`; what is above 0 is orange,
            what is below it blue, and 0 can't be seen.
        largest: Positive number, what is densest.

    Returns:
        Float array `(..., height, width, 4)` of red, green, blue and
        opacity, 0 to 255.
    """
    opacity = DENSEST * np.clip(np.abs(maps) / largest, 0, 1) ** CONTRAST
    colours = np.where((maps > 0)[..., None], FOR, AGAINST)
    return np.concatenate([colours, 255 * opacity[..., None]], axis=-1)


def _array(images):
    if isinstance(images, LabelledImages):
        return np.asarray(images.images)
    if isinstance(images, tuple):
        return to_arrays(images)[0]
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise UsageError(
            "`images` must be an array `(n, height, width, channels)` of at "
            f"least one image. Received: shape {images.shape}. For one image, "
            "give `image[None]`."
        )
    return images


def _scored(model, class_index):
    """Returns the flat model of images to one score `(batch, 1)`."""
    if isinstance(model, ClassModule):
        if class_index is not None:
            raise UsageError(
                "A module has one class, so `class_index` is left out. "
                f"Received: the module of {model.info.class_name!r} and "
                f"class_index={class_index}."
            )
        return log_odds_model(model.model)
    flat = rebuild(channel_graph(model))
    num_classes = flat.output_shape[-1]
    if class_index not in range(num_classes):
        raise UsageError(
            "`class_index` names the class of a classifier whose score is "
            f"explained, 0 to {num_classes - 1}. Received: "
            f"class_index={class_index!r} for {model_name(model)}."
        )
    logit = flat.outputs[0][:, class_index : class_index + 1]
    return keras.Model(flat.inputs[0], logit)


def _last_maps(scored) -> keras.KerasTensor:
    """Returns the last tensor that has places."""
    found = [
        tensor
        for operation in _operations(scored)
        for tensor in _outputs(operation)
        if _has_places(tensor.shape)
    ]
    if not found:
        raise UnsupportedModelError(
            "A class activation map is of a model with feature maps "
            "`(batch, height, width, channels)` of more than one place. "
            f"Received: {scored.name!r}, which has none. Explain a "
            "convolutional network."
        )
    return found[-1]


def _operations(model) -> Sequence[keras.Operation]:
    """Lists the operations of a Functional model behind its input, in order."""
    return [
        operation
        for operation in model.operations
        if not isinstance(operation, keras.layers.InputLayer)
    ]


def _outputs(operation):
    output = operation.output
    return output if isinstance(output, list | tuple) else [output]


def _has_places(shape):
    if len(shape) != 4 or None in shape[1:]:
        return False
    return shape[1] * shape[2] > 1


def model_name(model: ClassModule | keras.Model) -> str:
    """Names a model in a message."""
    if isinstance(model, ClassModule):
        return f"the module of {model.info.class_name!r}"
    return repr(model.name)
