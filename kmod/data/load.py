"""Loads data sets by name."""

from pathlib import Path

import numpy as np

from kmod.data.image_data import SPLITS
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.subsets import hold_out
from kmod.errors import ArtifactError
from kmod.errors import UsageError

# The test digits stay the same for every seed, so that a model trained with
# one seed is never tested on its own training images.
TEST_SPLIT = 0.2
TEST_SEED = 0


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
        name: `"digits"`, 1,797 images that scikit-learn brings along, or the
            name of a data set of TensorFlow Datasets, such as `"cifar10"` or
            `"mnist:3.0.1"`.
        data_dir: Directory of the prepared data sets. Defaults to that of
            TensorFlow Datasets.
        validation_split: Share of the training images to validate on, above 0
            and below 1. Defaults to 0.2 for the digits, which are few, and to
            0.1 for others.
        seed: Integer, seed of that choice.
        download: Whether to fetch data that are not there.

    Returns:
        The data set with its train, validation and test images, uint8 values
        from 0 to 255.

    Raises:
        ArtifactError: If the data set is unknown, is not there, or is not one
            of images of one size with one class each.
        UsageError: If `validation_split` is out of range.

    Example:

    >>> data = load_data("digits")
    >>> data.train.images.shape, data.test.labels.shape
    ((1149, 8, 8, 1), (360,))
    """
    if name == "digits":
        share = 0.2 if validation_split is None else validation_split
        return _load_digits(share, seed)
    share = 0.1 if validation_split is None else validation_split
    return _load_tfds(name, data_dir, share, seed, download)


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


def _load_digits(validation_split, seed):
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.rint(digits.images[..., None] * (255 / 16)).astype("uint8")
    labels = digits.target.astype("int64")
    rest, test = hold_out(LabelledImages(images, labels), TEST_SPLIT, TEST_SEED)
    train, validation = hold_out(rest, validation_split, seed)
    return ImageData(
        name="digits",
        version="uci-80",
        class_names=tuple(str(name) for name in digits.target_names),
        value_range=(0.0, 255.0),
        train=train,
        validation=validation,
        test=test,
    )


def _load_tfds(name, data_dir, validation_split, seed, download):
    builder = _builder(name, data_dir)
    if download:
        builder.download_and_prepare()
    _check_is_there(builder, name, data_dir)
    _check_form(builder.info)
    train, validation = hold_out(
        _read(builder, "train"), validation_split, seed
    )
    return ImageData(
        name=builder.name,
        version=str(builder.version),
        class_names=tuple(_features(builder.info)[1].names),
        value_range=(0.0, 255.0),
        train=train,
        validation=validation,
        test=_read(builder, "test"),
    )


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        raise ArtifactError(
            "A data set is 'digits' or one that TensorFlow Datasets knows. "
            f"Received: {name!r}; prepared in the data directory: "
            f"{_prepared(data_dir)}. See https://www.tensorflow.org/datasets "
            "for all names."
        ) from error
    except AssertionError as error:  # The version asked for does not exist.
        raise ArtifactError(
            f"Data set {name!r} can not be opened: {error} Leave the version "
            "out to take the newest."
        ) from error


def _check_is_there(builder, name, data_dir):
    if not builder.info.splits:
        raise ArtifactError(
            f"Data set {name!r} version {builder.version} must be in the data "
            f"directory. Received: data_dir={str(data_dir)!r}, which holds "
            f"{_prepared(data_dir)}. Name the directory that holds it with "
            "`data_dir` (`--data-dir`), or fetch it with `download=True`."
        )


def _prepared(data_dir):
    """Lists `name/version` of what lies prepared in a data directory."""
    import tensorflow_datasets as tfds

    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    found = root.glob("*/*/dataset_info.json")
    return sorted(str(path.parent.relative_to(root)) for path in found)


def _check_form(info):
    import tensorflow_datasets as tfds

    image, label = _features(info)
    if (
        not isinstance(image, tfds.features.Image)
        or not isinstance(label, tfds.features.ClassLabel)
        or image.np_dtype != np.uint8
        or None in image.shape
        or not {"train", "test"} <= set(info.splits)
    ):
        raise ArtifactError(
            "A data set must have uint8 images of one size, one class for "
            "each, and the splits 'train' and 'test'. Received: "
            f"{info.name!r} with image={image}, label={label} and splits "
            f"{sorted(info.splits)}. Prepare arrays of your own and pass "
            "those."
        )


def _features(info):
    """Returns the features of image and label, `None` where there is none."""
    keys = info.supervised_keys or ()
    if len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        return None, None
    return info.features[keys[0]], info.features[keys[1]]


def _read(builder, split):
    import tensorflow_datasets as tfds

    tensors = builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
    images, labels = tfds.as_numpy(tensors)
    return LabelledImages(images, labels.astype("int64"))
