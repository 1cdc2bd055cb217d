"""Loads images with and without labels: by name, from files, functions."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import numpy as np

from kmod.data.batches import to_arrays
from kmod.data.disk_arrays import check_room
from kmod.data.disk_arrays import take
from kmod.data.image_data import SPLITS
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
from kmod.data.own_images import CHANNELS
from kmod.data.own_images import TEST_SEED
from kmod.data.own_images import TEST_SPLIT
from kmod.data.own_images import chosen_classes
from kmod.data.own_images import is_function
from kmod.data.own_images import load_function
from kmod.data.own_images import load_path
from kmod.data.own_images import load_unlabelled_path
from kmod.data.own_images import of_classes
from kmod.data.own_images import own_path
from kmod.data.own_images import some_indices
from kmod.data.subsets import hold_out
from kmod.data.value_range import value_range_of
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.errors import reason_of

BATCH_SIZE = 256
# Shares to validate on: of few images it takes more of them.
FEW_SPLIT = 0.2
MANY_SPLIT = 0.1


def load_data(
    name: str | Path = "digits",
    data_dir: str | Path | None = None,
    validation_split: float | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    color_mode: Literal["grayscale", "rgb", "rgba"] | None = None,
    classes: Sequence[str] | None = None,
    splits: Sequence[str] = SPLITS,
    seed: int = 0,
    download: bool = False,
) -> ImageData:
    """Loads an image classification data set.

    Images of your own are one of these:

    - a folder with the folders `train`, `validation` (or `val`) and `test`,
      each with a folder for each class; or a folder with a folder for each
      class, a fifth of which becomes the test images. Classes are the folders
      in the order of Keras, sorted as text: `10` is before `2`;
    - a `.csv` file with the columns `path`, relative to it, and `label`, and
      with `split` if it shall not be split here;
    - an `.npz` file of the arrays `x_train`, `y_train` and, if there are such,
      `x_val`, `y_val`, `x_test`, `y_test` and `class_names`; `train_images`,
      `train_labels` and so on are the same;
    - `module:function`, which returns three batched tf.data data sets to train,
      validate and test on, or an `ImageData`. It is imported and called.

    Files that can not be read are counted, named in a warning of the logger
    `kmod` and left out. Images that take more than 256 MiB are kept in a
    temporary file instead of memory: as bytes, in the size asked for. The
    environment variable TMPDIR says where.

    Args:
        name: `"digits"`, 1,797 images that scikit-learn brings along, the
            name of a data set of TensorFlow Datasets, such as `"cifar10"` or
            `"mnist:3.0.1"`, or one's own images, as above.
        data_dir: Directory of the prepared data sets. Defaults to that of
            TensorFlow Datasets.
        validation_split: Share of the training images to validate on, above 0
            and below 1, where there is no such split. Defaults to 0.1 for
            TensorFlow Datasets and to 0.2 for others, which are few.
        image_size: Height and width that images from files are brought to.
        color_mode: What images from files become: `"grayscale"`, `"rgb"` or
            `"rgba"`. Defaults to `"rgb"`.
        classes: Names of the classes to take, in this order. Defaults to all,
            in that of the data.
        splits: Which of `"train"`, `"validation"` and `"test"` are wanted. Of
            the others no image is read, where that saves time.
        seed: Integer, seed of the choice of validation images.
        download: Whether to fetch data that are not there.

    Returns:
        The data set with its train, validation and test images. Images are
        uint8 values from 0 to 255, those of arrays and functions as they are.

    Raises:
        ArtifactError: If the data set is unknown, is not there, is not one of
            images of one size with one class each, or has a class without
            images, or the disk has no room for it.
        UsageError: If `validation_split` is out of range, or `image_size` is
            missing or does not fit.

    Example:

    >>> data = load_data("digits")
    >>> data.train.images.shape, data.test.labels.shape
    ((1149, 8, 8, 1), (360,))
    """
    path = own_path(name, data_dir)
    _check_share(validation_split)
    if path is not None:
        share = validation_split or FEW_SPLIT
        data = load_path(
            path, share, seed, image_size, color_mode, classes, splits
        )
    elif is_function(name):
        data = load_function(name)
    else:
        data = load_named(
            name, data_dir, validation_split, seed, download, splits
        )
    _check_size(data, data.train.images, image_size, color_mode)
    return data if classes is None else select_classes(data, classes)


def load_unlabelled(
    name: str | Path,
    data_dir: str | Path | None = None,
    *,
    split: Literal["train", "validation", "test"] | None = None,
    image_size: tuple[int, int] | None = None,
    color_mode: Literal["grayscale", "rgb", "rgba"] | None = None,
    limit: int | None = None,
) -> UnlabelledImages:
    """Loads images alone; what they show is not asked for.

    They are one of these:

    - a folder of images at any depth, where sub-folders mean nothing. If it
      has the folders `train`, `validation` (or `val`) and `test`, the images
      of one of them;
    - an `.npz` file of one array of images, or of several with such names as
      `images` or those that `load_data` takes, with or without labels;
    - any data set that `load_data` takes, whose labels are left out.

    Files that can not be read, and images that memory has no room for, are
    treated as by `load_data`.

    Args:
        name: What `load_data` takes, or the path of images without labels.
        data_dir: Directory of the prepared data sets. Defaults to that of
            TensorFlow Datasets.
        split: Which images to take. Defaults to those to train on where the
            data have splits of their own, and else to all: of a folder
            of classes `"train"` is what `load_data` calls so, a part of it.
        image_size: Height and width that images from files are brought to.
        color_mode: What images from files become: `"grayscale"`, `"rgb"` or
            `"rgba"`. Defaults to `"rgb"`.
        limit: Integer, take at most this many, drawn at random and always the
            same. Defaults to all.

    Returns:
        The images, from files as uint8 values from 0 to 255, and else as they
        are.

    Raises:
        ArtifactError: If there are no images, or as `load_data`.
        UsageError: If `image_size` is missing or does not fit, or `limit` or
            `split` is out of range.
    """
    if limit is not None and limit < 1:
        raise UsageError(
            f"`limit` must be at least 1. Received: limit={limit}. Leave it "
            "out to take all images."
        )
    if split not in (None, *SPLITS):
        raise UsageError(
            f"`split` must be one of {', '.join(SPLITS)}. Received: "
            f"split={split!r}. Leave it out to take the images to train on."
        )
    path, found = own_path(name, data_dir), None
    if path is not None:
        found = load_unlabelled_path(path, split, image_size, color_mode, limit)
    if found is None:
        split = split or "train"
        data = load_data(
            name,
            data_dir,
            image_size=image_size,
            color_mode=color_mode,
            splits=[split],
        )
        images = data.images_of(split).images
        found = UnlabelledImages(images, tuple(data.value_range), data.name)
    elif path.is_file():
        _check_size(found, found.images, image_size, color_mode)
    kept = some_indices(len(found), limit)
    return found if len(kept) == len(found) else found.take(kept)


def unlabelled_of(
    data: Any, value_range: tuple[float, float] | None = None
) -> UnlabelledImages:
    """Returns images of whatever a Keras user has, labels left out.

    Args:
        data: `UnlabelledImages`, an array of images, an `ImageData`, of which
            the images to train on are taken, or labelled images as `to_arrays`
            takes them. A batched `tf.data.Dataset` may be of images alone.
        value_range: Smallest and largest pixel value of an array. Defaults to
            the usual range that its values are in.

    Raises:
        ArtifactError, UsageError: If values are no pixels of that range.
        TypeError: If `data` is of another type.
        ValueError: If there are none, or they have another shape.
    """
    if isinstance(data, UnlabelledImages):
        return data
    if isinstance(data, ImageData):
        found = data.images_of("train").images
        return UnlabelledImages(found, tuple(data.value_range), data.name)
    spec = getattr(data, "element_spec", None)
    if hasattr(spec, "shape"):  # A data set of images alone.
        if spec.shape.rank != 4:
            raise ValueError(
                "Batches of images must be (batch, height, width, channels). "
                f"Received: a data set of shape {spec.shape}. Use "
                "`data.batch(256)`."
            )
        data = data.map(lambda images: (images, _no_labels(images)))
    if hasattr(data, "dtype"):
        images = np.asanyarray(data)
    else:
        images, _ = to_arrays(data)
    if images.ndim == 3:
        images = images[..., None]  # Grey images, as Keras takes them.
    value_range = value_range_of(images, value_range) if len(images) else (0, 1)
    return UnlabelledImages(images, value_range, "images")


def _no_labels(images):
    import tensorflow as tf

    return tf.zeros(tf.shape(images)[:1], "int64")


def load_named(
    name: str,
    data_dir: str | Path | None = None,
    validation_split: float | None = None,
    seed: int = 0,
    download: bool = False,
    splits: Sequence[str] = SPLITS,
) -> ImageData:
    """Does what `load_data` does for a name that others wrote.

    It stands for the digits or a data set of TensorFlow Datasets only, so
    neither is a function called, nor does a folder of that name count.
    """
    if name == "digits":
        return _load_digits(validation_split or FEW_SPLIT, seed)
    if is_function(name):
        raise ArtifactError(
            "Specs and manifests name data sets and paths, since a function "
            f"that a stranger names must not be called. Received: {name!r}. "
            "Save what it returns as an .npz file."
        )
    share = validation_split or MANY_SPLIT
    return _load_tfds(name, data_dir, share, splits, seed, download)


def _check_share(share):
    if share is not None and not 0 < share < 1:
        raise UsageError(
            "`validation_split` must be above 0 and below 1. Received: "
            f"{share}. A tenth, 0.1, is usual."
        )


def _check_size(data, images, image_size, color_mode):
    """Refuses options of images from files for others that they do not fit."""
    height, width, channels = images.shape[1:]
    wanted = tuple(image_size or (height, width))
    if wanted != (height, width) or channels != CHANNELS.get(
        color_mode, channels
    ):
        raise UsageError(
            "`image_size` and `color_mode` are for images from files. "
            f"Received: image_size={image_size}, color_mode={color_mode!r} "
            f"for {data.name!r}, whose images are of shape "
            f"{(height, width, channels)}. Leave them out, or take data of "
            "the shape that the model takes."
        )


def select_classes(data: ImageData, classes: Sequence[str]) -> ImageData:
    """Returns a data set of some classes, numbered in the order given.

    Raises:
        ArtifactError: If the data set does not have them, or none to train on.
    """
    classes = tuple(classes)
    if classes == data.class_names:
        return data
    indices = chosen_classes(classes, data.class_names, data.name)
    parts = {}
    for split in SPLITS:
        part = getattr(data, split)
        kept, labels = of_classes(
            part.labels, indices, classes, split, data.name
        )
        parts[split] = LabelledImages(take(part.images, kept), labels)
    return dataclasses.replace(data, class_names=classes, **parts)


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


def split_name(text: str) -> tuple[str, str | None]:
    """Takes `NAME:SPLIT` or a bare `NAME` apart; the latter has no split."""
    name, _, split = text.rpartition(":")
    return (name, split) if name and split in SPLITS else (text, None)


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


def _load_tfds(name, data_dir, validation_split, splits, seed, download):
    builder = _builder(name, data_dir)
    if download:
        builder.download_and_prepare()
    _check_is_there(builder, name, data_dir)
    _check_form(builder.info)
    shape = _features(builder.info)[0].shape
    none = LabelledImages(np.empty((0, *shape), "uint8"), np.empty(0, "int64"))
    train = validation = test = none
    if "train" in splits or "validation" in splits:
        train, validation = hold_out(
            _read(builder, "train"), validation_split, seed
        )
    if "test" in splits:
        test = _read(builder, "test")
    return ImageData(
        name=builder.name,
        version=str(builder.version),
        class_names=tuple(_features(builder.info)[1].names),
        value_range=(0.0, 255.0),
        train=train,
        validation=validation,
        test=test,
    )


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ArtifactError(
            "A data set is 'digits', one that TensorFlow Datasets knows, a "
            "folder of images, a .csv or .npz file, or `module:function`. "
            f"Received: {name!r}; prepared in the data directory: "
            f"{_prepared(data_dir)}. Look at the spelling, and for a folder "
            "at the directory that you are in; "
            "https://www.tensorflow.org/datasets has all names."
        ) from error
    except AssertionError as error:  # The version asked for does not exist.
        raise ArtifactError(
            f"Data set {name!r} can not be opened: {reason_of(error)}. Leave "
            "the version "
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

    count = builder.info.splits[split].num_examples
    shape = _features(builder.info)[0].shape
    check_room(count * math.prod(shape), builder.name)
    read = builder.as_dataset(
        split=split,
        as_supervised=True,
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    return LabelledImages(*to_arrays(read.batch(BATCH_SIZE)))
