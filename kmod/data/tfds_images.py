"""Image classification data sets of TensorFlow Datasets."""

from pathlib import Path

import numpy as np

from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.subsets import hold_out
from kmod.errors import ArtifactError


def load_tfds(
    name: str,
    data_dir: str | Path | None = None,
    validation_split: float = 0.1,
    *,
    seed: int = 0,
    download: bool = False,
) -> ImageData:
    """Loads a data set of TensorFlow Datasets into memory.

    Args:
        name: Name in the catalogue, such as `"cifar10"` or `"mnist:3.0.1"`.
        data_dir: Directory that holds the prepared data. Defaults to that of
            TensorFlow Datasets, `~/tensorflow_datasets`.
        validation_split: Share of the training images to validate on.
        seed: Integer, seed of that choice.
        download: Whether to fetch and prepare data that are not there.

    Returns:
        The data set, uint8 values from 0 to 255.

    Raises:
        ArtifactError: If the data set is unknown, is not there, or is not one
            of images of one size with one class each.
    """
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
