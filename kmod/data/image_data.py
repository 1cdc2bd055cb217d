"""Labelled images in memory, and a data set in its three splits."""

import dataclasses

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and the class index of each.

    Attributes:
        images: Array `(n, height, width, channels)`.
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
        return LabelledImages(self.images[indices], self.labels[indices])


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
        test: Images to measure on, nothing else.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    value_range: tuple[float, float]
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
