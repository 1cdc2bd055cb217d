"""Loads data sets by name."""

from pathlib import Path

from kmod.data.digits import load_digits
from kmod.data.image_data import SPLITS
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.tfds_images import load_tfds
from kmod.errors import UsageError


def load_data(
    name: str = "digits",
    data_dir: str | Path | None = None,
    validation_split: float | None = None,
    *,
    seed: int = 0,
    download: bool = False,
) -> ImageData:
    """Loads an image classification data set into memory.

    Args:
        name: `"digits"`, which needs no files, or the name of a data set of
            TensorFlow Datasets, such as `"mnist"`, `"fashion_mnist"` or
            `"cifar10"`.
        data_dir: Directory of the prepared data sets. Defaults to that of
            TensorFlow Datasets.
        validation_split: Share of the training images to validate on, above 0
            and below 1. Defaults to 0.2 for the digits, which are few, and to
            0.1 for others.
        seed: Integer, seed of that choice.
        download: Whether to fetch data that are not there.

    Returns:
        The data set with its train, validation and test images.

    Raises:
        ArtifactError: If the data set is unknown, not there or of another
            kind.
        UsageError: If `validation_split` is out of range.

    Example:

    >>> data = load_data("digits")
    >>> data.train.images.shape, data.test.labels.shape
    ((1149, 8, 8, 1), (360,))
    """
    if name == "digits":
        return load_digits(_or(validation_split, 0.2), seed)
    return load_tfds(
        name,
        data_dir,
        _or(validation_split, 0.1),
        seed=seed,
        download=download,
    )


def _or(given, default):
    return default if given is None else given


def load_split(
    text: str, data_dir: str | Path | None = None, *, download: bool = False
) -> LabelledImages:
    """Loads the images that `NAME:SPLIT` stands for.

    Args:
        text: Name of a data set and one of its splits, such as `"mnist:test"`.
        data_dir: Directory of the prepared data sets.
        download: Whether to fetch data that are not there.

    Returns:
        The images of that split, as `load_data` cuts it by default.

    Raises:
        UsageError: If `text` is not of that form.
        ArtifactError: If the data set can not be loaded.
    """
    name, split = parse_split(text)
    return getattr(load_data(name, data_dir, download=download), split)


def parse_split(text: str) -> tuple[str, str]:
    """Takes `NAME:SPLIT` apart into the two.

    Raises:
        UsageError: If `text` is not of that form.
    """
    name, _, split = text.rpartition(":")
    if not name or split not in SPLITS:
        raise UsageError(
            "Data are named NAME:SPLIT, with SPLIT one of "
            f"{', '.join(SPLITS)}. Received: {text!r}. Write for example "
            "digits:test."
        )
    return name, split
