"""Images with and without labels, and a data set in its three splits."""

import dataclasses
from pathlib import Path

import numpy as np

from kmod.data.disk_arrays import take
from kmod.errors import ArtifactError

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and the class index of each.

    Attributes:
        images: Array `(n, height, width, channels)`, a `numpy.memmap` where
            memory has no room for it.
        labels: int64 array `(n,)` of class indices.

    Raises:
        ValueError: If the shapes do not fit each other.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        count = len(self.images)
        if self.images.ndim != 4 or self.labels.shape != (count,):
            raise ValueError(
                "`images` must be (n, height, width, channels) and `labels` "
                f"(n,). Received: images of shape {self.images.shape}, labels "
                f"of shape {self.labels.shape}."
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> "LabelledImages":
        """Returns the images at `indices`, in that order."""
        return LabelledImages(take(self.images, indices), self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class UnlabelledImages:
    """Images of which nobody says what they show.

    Attributes:
        images: Array `(n, height, width, channels)`, a `numpy.memmap` where
            memory has no room for it.
        value_range: Smallest and largest pixel value.
        name: Name of the data.

    Raises:
        ValueError: If there is no image, or the shape is another.
    """

    images: np.ndarray
    value_range: tuple[float, float]
    name: str

    def __post_init__(self):
        if self.images.ndim != 4 or not len(self.images):
            raise ValueError(
                "`images` must be (n, height, width, channels), and at least "
                f"one. Received: images of shape {self.images.shape}. Give "
                "grey images a last axis of 1."
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> "UnlabelledImages":
        """Returns the images at `indices`, in that order."""
        images = take(self.images, indices)
        return dataclasses.replace(self, images=images)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """An image classification data set.

    Validation images are cut from the training images, so the test images
    can measure what no choice was made on.

    Attributes:
        name: Name of the data set.
        version: Version of the data set.
        class_names: Name of each class, by class index.
        value_range: Smallest and largest pixel value.
        train: Images to train on.
        validation: Images to choose by: epochs, masks, calibration.
        test: Images to measure on, nothing else; none if the data have no
            such split.
        path: Where it lies, if it is no data set that a name is enough for.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    value_range: tuple[float, float]
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    path: Path | None = None

    def images_of(self, split: str) -> LabelledImages:
        """Returns the images of a split.

        Args:
            split: `"train"`, `"validation"` or `"test"`.

        Raises:
            ArtifactError: If there are none.
        """
        images = getattr(self, split)
        if not len(images):
            raise ArtifactError(
                "A data set must have images of the split that is asked for. "
                f"Received: {self.name!r} without {split} images. Add them, "
                f"such as in a folder `{split}`, or ask for another split."
            )
        return images
