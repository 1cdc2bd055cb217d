"""Reads images of one's own: folders, tables, arrays and functions.

What Keras reads from a folder, this reads to the same pixels, rounded to bytes,
and files that can not be read are left out.
"""

import contextlib
import csv
import hashlib
import logging
import math
import os
import re
import zipfile
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import numpy as np

from kmod.data.batches import class_names_of
from kmod.data.batches import to_arrays
from kmod.data.disk_arrays import PART
from kmod.data.disk_arrays import check_room
from kmod.data.disk_arrays import collect
from kmod.data.disk_arrays import take
from kmod.data.disk_arrays import update_digest
from kmod.data.image_data import SPLITS
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
from kmod.data.subsets import class_subset_indices
from kmod.data.subsets import hold_out_indices
from kmod.data.value_range import value_range_of
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.files.custom_layers import import_here

# The test images stay the same for every seed, so that a model trained with
# one seed is never tested on its own training images.
TEST_SPLIT = 0.2
TEST_SEED = 0
ORDER_SEED = 0
MAX_CLASSES = 100_000
CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
TABLE_FORMS = (".csv", ".npz")
# Names that the arrays of a split have in files of Keras and of others.
ARRAYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (
        ("x_val", "y_val"),
        ("x_validation", "y_validation"),
        ("val_images", "val_labels"),
    ),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
UNLABELLED_ARRAYS = ("images", "x")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
WHOLE = "all"
NUM_NAMED = 3
BATCH_SIZE = 64

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_log = logging.getLogger("kmod")

Files = tuple[list[str], list[str]]  # Paths of images, the class of each.
Arrays = tuple[np.ndarray, np.ndarray]  # Images or paths of them, labels.


def is_function(name: str | Path) -> bool:
    """Tells whether a name is that of a function, `module:function`."""
    return isinstance(name, str) and bool(_FUNCTION.fullmatch(name))


def own_path(
    name: str | Path, data_dir: str | Path | None = None
) -> Path | None:
    """Returns the folder or file that a name means.

    Args:
        name: As `load_data` takes it.
        data_dir: Directory of prepared data sets. What lies there by this
            name comes before a folder in the working directory.

    Returns:
        The path, or `None` if the name is that of a data set or a function.

    Raises:
        ArtifactError: If the name can only be a path, and nothing is there.
    """
    path = Path(name).expanduser()
    is_prepared = data_dir is not None and (Path(data_dir) / path).is_dir()
    is_path = (
        isinstance(name, Path)
        or path.suffix.lower() in TABLE_FORMS
        or str(name).startswith((".", "~"))
        or path.is_absolute()
        or "\\" in str(name)
    )
    if not is_path and (
        name == "digits"
        or is_function(name)
        or is_prepared
        or not path.is_dir()
    ):
        return None
    if not path.is_dir() and not (
        path.is_file() and path.suffix.lower() in TABLE_FORMS
    ):
        raise ArtifactError(
            "Images of your own are a folder, a .csv or an .npz file. "
            f"Received: '{name}', which "
            f"{'is another file' if path.exists() else 'is not there'}. Look "
            "at the path, which starts in the working directory."
        )
    return path


def file_options(
    name: str | Path, shape: Sequence[int | None], data_dir: Any = None
) -> dict[str, Any]:
    """Returns the options of `load_data` for a model's images.

    Args:
        name: As `load_data` takes it.
        shape: Height, width and channels that the model takes.
        data_dir: Directory of prepared data sets.

    Returns:
        `image_size` and `color_mode`, as far as the model tells them, for
        images from files; nothing for others, which are as they are.
    """
    path = own_path(name, data_dir)
    if path is None or path.suffix.lower() == ".npz" or len(shape) != 3:
        return {}
    *size, channels = shape
    modes = {count: mode for mode, count in CHANNELS.items()}
    return {
        "image_size": None if None in size else tuple(size),
        "color_mode": modes.get(channels),
    }


def load_path(
    path: Path,
    validation_split: float,
    seed: int,
    image_size: tuple[int, int] | None,
    color_mode: Literal["grayscale", "rgb", "rgba"] | None,
    classes: Sequence[str] | None = None,
    splits: Sequence[str] = SPLITS,
) -> ImageData:
    """Loads a folder, a .csv or an .npz file; arguments as of `load_data`.

    Of a folder or a .csv file only the `classes` and `splits` are read that
    are wanted. An .npz file is read whole.
    """
    suffix = path.suffix.lower() if path.is_file() else ""
    if suffix == ".npz":
        arrays, class_names = _read_npz(path)
    else:
        files, ignored = _csv_files(path) if suffix else _folder_files(path)
        class_names = _class_names(files, path)
        arrays = _with_labels(files, class_names)
    arrays = _all_splits(arrays, class_names, path, validation_split, seed)
    if suffix == ".npz":
        parts = {split: LabelledImages(*each) for split, each in arrays.items()}
        value_range = value_range_of(parts["train"].images)
    else:
        arrays = {split: _mixed(*each) for split, each in arrays.items()}
        if classes is not None:
            name = path.resolve().name
            chosen = chosen_classes(classes, class_names, name)
            for split in splits:
                paths, labels = arrays[split]
                kept, labels = of_classes(labels, chosen, classes, split, name)
                arrays[split] = paths[kept], labels
            class_names = tuple(classes)
        for split in set(SPLITS) - set(splits):
            arrays[split] = tuple(each[:0] for each in arrays[split])
        parts = _read_splits(
            arrays, class_names, path, image_size, color_mode, ignored
        )
        value_range = (0.0, 255.0)
    return ImageData(
        name=path.resolve().name,
        version=_digest(parts),
        class_names=class_names,
        value_range=value_range,
        path=path.resolve(),
        **parts,
    )


def load_unlabelled_path(
    path: Path,
    split: Literal["train", "validation", "test"] | None,
    image_size: tuple[int, int] | None,
    color_mode: Literal["grayscale", "rgb", "rgba"] | None,
    limit: int | None,
) -> UnlabelledImages | None:
    """Loads images alone of a folder or an .npz file.

    Arguments as of `load_unlabelled`.

    Returns:
        The images, or `None` if only `load_path` knows which are of the split.

    Raises:
        ArtifactError: If there are none.
        UsageError: If `image_size` is missing.
    """
    if path.suffix.lower() == ".npz" and path.is_file():
        images = _read_unlabelled_npz(path, split)
        value_range = value_range_of(images)
    elif path.is_dir():
        splits = _split_folders(path) or ({WHOLE: path} if not split else {})
        folder = splits.get(split or "train") or splits.get(WHOLE)
        if folder is None:
            return None
        images = _read_any_depth(folder, image_size, color_mode, limit)
        value_range = (0.0, 255.0)
    else:
        return None
    return UnlabelledImages(images, value_range, path.resolve().name)


def _read_any_depth(folder, image_size, color_mode, limit):
    """Reads all images of a folder, in whatever folders of it they lie."""
    found = [
        each
        for each in sorted(folder.rglob("*"))
        if each.is_file()
        and not any(
            part.startswith(".") for part in each.relative_to(folder).parts
        )
    ]
    is_image = [each.suffix.lower() in SUFFIXES for each in found]
    ignored = [str(each) for each, keep in zip(found, is_image) if not keep]
    paths = [str(each) for each, keep in zip(found, is_image) if keep]
    paths = np.array(paths, str)[some_indices(len(paths), limit)]
    shape = _shape_to_read(folder, len(paths), image_size, color_mode)
    images, kept = _read_images(paths, shape)
    if not len(images):
        raise ArtifactError(
            "A folder of images without labels has images (.bmp, .gif, .jpeg, "
            f".jpg, .png) at any depth. Received: '{folder}' with "
            f"{len(paths)} such files, none of which can be read, and "
            f"{len(ignored)} others. Look at the path and at the files."
        )
    broken = sorted({*paths.tolist()} - {*paths[kept].tolist()})
    _log_left_out(folder, len(paths), broken, ignored)
    return images


def some_indices(count: int, limit: int | None) -> np.ndarray:
    """Draws `limit` of `count` indices, always the same, in their order."""
    if limit is None or limit >= count:
        return np.arange(count)
    random = np.random.default_rng(ORDER_SEED)
    return np.sort(random.permutation(count)[:limit])


def chosen_classes(
    classes: Sequence[str], class_names: Sequence[str], name: str
) -> list[int]:
    """Returns the class indices of some classes of a data set.

    Args:
        classes: Names of the classes.
        class_names: Names of all classes of the data set.
        name: Name of the data set.

    Raises:
        ArtifactError: If they are not two or more of its classes, each once.
    """
    known = {name: index for index, name in enumerate(class_names)}
    unknown = set(classes) - set(known)
    if unknown or len(set(classes)) != len(classes) or len(classes) < 2:
        raise ArtifactError(
            "`classes` must name two or more classes of the data, each once. "
            f"Received: {list(classes)} for {name!r}, whose classes are "
            f"{list(class_names)}. Name them as the data do."
        )
    return [known[name] for name in classes]


def of_classes(
    labels: np.ndarray,
    chosen: Sequence[int],
    classes: Sequence[str],
    split: str,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the images of some classes of a split.

    A class may have none to validate or test on, of which a warning tells.

    Args:
        labels: Class indices of all images of the split.
        chosen: As `chosen_classes` returns them.
        classes: Names of these classes.
        split: Name of the split.
        name: Name of the data set.

    Returns:
        Tuple of the indices of the images and of their labels, numbered anew.

    Raises:
        ArtifactError: If a class has no images to train on.
    """
    shown = set(labels.tolist())
    absent = [
        name for index, name in zip(chosen, classes) if index not in shown
    ]
    if not absent or not len(labels):
        pass
    elif split == "train":
        raise ArtifactError(
            "Classes must have images to train on. Received: "
            f"{name!r} without any of {absent}. Leave these classes out, or "
            "add images."
        )
    else:
        _log.warning("%r has no images of %s for %s.", name, absent, split)
    return class_subset_indices(labels, chosen)


def load_function(name: str) -> ImageData:
    """Calls `module:function` for data sets; see `load_data`."""
    module_name, _, function_name = name.partition(":")
    found = _import(module_name, name)
    function = getattr(found, function_name, None)
    if not callable(function):
        raise ArtifactError(
            "`module:function` must name a function. Received: "
            f"{name!r}, and module {module_name!r} has none of that name. "
            "Look at its spelling."
        )
    data = function()
    if isinstance(data, ImageData):
        return data
    if not isinstance(data, (tuple, list)) or len(data) != len(SPLITS):
        raise ArtifactError(
            "A function of data must return (train, validation, test), each "
            "labelled images, or an `ImageData`. Received: from "
            f"{name!r} an object of type {type(data).__name__}. Return the "
            "three, such as batched tf.data data sets."
        )
    try:
        arrays = [to_arrays(each) for each in data]
        parts = {
            split: LabelledImages(*each) for split, each in zip(SPLITS, arrays)
        }
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"Data of {name!r}: {reason_of(error)}") from error
    named = (class_names_of(each) for each in data)
    class_names = next(filter(None, named), None)
    if class_names is None:
        labels = [part.labels for part in parts.values()]
        class_names = map(str, range(_count_classes(labels, name)))
    return ImageData(
        name=name,
        version=_digest(parts),
        class_names=_checked_labels(
            dict(zip(SPLITS, arrays)), tuple(class_names), name
        ),
        value_range=value_range_of(parts["train"].images),
        **parts,
    )


def _import(module_name, name):
    """Imports a module, also of the working directory."""
    try:
        return import_here(module_name)
    except ModuleNotFoundError as error:
        raise ArtifactError(
            "`module:function` must name a module that can be imported. "
            f"Received: {name!r}, but {error}. Run the command where the "
            "module is, or install it. Where a whole data set is asked for, "
            "leave `:test` out."
        ) from error


def _folder_files(folder: Path) -> tuple[dict[str, Files], list[str]]:
    """Lists the images of a folder by split, and the other files."""
    files, ignored = {}, []
    for split, path in (_split_folders(folder) or {WHOLE: folder}).items():
        files[split], others = _class_files(path)
        ignored += others
    return files, ignored


def _split_folders(folder: Path) -> dict[str, Path] | None:
    """Returns the folders of splits, `None` if a folder has others."""
    found = [
        each.name
        for each in sorted(folder.iterdir())
        if each.is_dir() and not each.name.startswith(".")
    ]
    splits = {_split_of(name): folder / name for name in found}
    if not found or None in splits:
        return None
    if "train" not in splits or len(splits) < len(found):
        raise ArtifactError(
            "A folder of splits has the folders train, validation (or val) "
            f"and test, each once, and needs train. Received: {found} in "
            f"'{folder}'. Rename them, or put the folders of the classes into "
            "one, which is split by a seed."
        )
    return splits


def _split_of(name):
    name = name.lower()
    if name in ("train", "training"):
        return "train"
    if name == "test":
        return "test"
    return "validation" if re.fullmatch("val(id(ation)?)?", name) else None


def _class_files(folder: Path) -> tuple[Files, list[str]]:
    """Lists the images of class folders as Keras finds them."""
    import keras

    try:
        listed = keras.utils.image_dataset_from_directory(
            folder, batch_size=None, shuffle=False, verbose=False
        )
    except ValueError as error:
        raise ArtifactError(
            "A folder of images has a folder for each class. Received: "
            f"'{folder}' without any image in such a folder (.bmp, .gif, "
            ".jpeg, .jpg, .png). Sort the images into folders named as their "
            "classes."
        ) from error
    paths = listed.file_paths
    classes = [Path(path).relative_to(folder).parts[0] for path in paths]
    if empty := sorted(set(listed.class_names) - set(classes)):
        raise ArtifactError(
            "Each folder of a class must have images (.bmp, .gif, .jpeg, .jpg, "
            f".png). Received: none in {empty} of '{folder}'. Remove the empty "
            "folders, or fill them."
        )
    images = set(map(Path, paths))
    ignored = [
        str(path)
        for name in listed.class_names
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and path not in images and path.name[0] != "."
    ]
    return (paths, classes), ignored


def _csv_files(path: Path) -> tuple[dict[str, Files], list[str]]:
    """Lists the images of a table by split."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(
            "A .csv file of images must be a table in UTF-8. Received: "
            f"'{path}', {error}. Save it so."
        ) from error
    if not {"path", "label"} <= set(columns) or not rows:
        raise ArtifactError(
            "A .csv file of images has a line of column names, `path` and "
            "`label` among them, and a line for each image. Received: columns "
            f"{columns} and {len(rows)} images in '{path}'. Write "
            "`path,label` as its first line."
        )
    has_splits = "split" in columns
    files = {}
    for number, row in enumerate(rows, 2):
        split = _split_of(row["split"] or "") if has_splits else WHOLE
        if not (split and row["path"] and row["label"]):
            raise ArtifactError(
                "Each line of a .csv file of images must have a `path`, a "
                "`label` and, if there is such a column, a `split`: train, "
                f"validation or test. Received: line {number} of '{path}' "
                f"with {dict(row)}. Fill it in."
            )
        paths, classes = files.setdefault(split, ([], []))
        paths.append(str(path.parent / row["path"]))
        classes.append(row["label"])
    if has_splits and "train" not in files:
        raise ArtifactError(
            "A .csv file of splits must have images of the split train. "
            f"Received: {sorted(files)} in '{path}'. Leave the column out to "
            "split the images by a seed."
        )
    return files, []


def _class_names(files: Mapping[str, Files], path: Path) -> tuple[str, ...]:
    """Returns the classes, sorted as Keras sorts folders: 10 before 2."""
    _, classes = files.get(WHOLE) or files["train"]
    names = tuple(sorted(set(classes)))
    outside = {name for _, found in files.values() for name in found}
    outside -= set(names)
    if outside or len(names) < 2:
        raise ArtifactError(
            "Images must be of two classes or more, and those of the other "
            "splits of the same as those to train on. Received: "
            f"'{path}' with the classes {list(names)}"
            f"{f', and {sorted(outside)} elsewhere' if outside else ''}. "
            "Look at the folders' names, or at the labels."
        )
    return names


def _with_labels(
    files: Mapping[str, Files], class_names: Sequence[str]
) -> dict[str, Arrays]:
    index = {name: i for i, name in enumerate(class_names)}
    return {
        split: (np.array(paths), np.array([index[name] for name in classes]))
        for split, (paths, classes) in files.items()
    }


def _mixed(paths, labels):
    """Returns files in another order: the first few are of all classes."""
    order = np.random.default_rng(ORDER_SEED).permutation(len(paths))
    return paths[order], labels[order]


def _read_splits(
    files, class_names, path, image_size, color_mode, ignored
) -> dict[str, LabelledImages]:
    """Reads the images of all splits, and says what was left out."""
    total = sum(len(paths) for paths, _ in files.values())
    shape = _shape_to_read(path, total, image_size, color_mode)
    parts, broken = {}, []
    for split, (paths, labels) in files.items():
        images, kept = _read_images(paths, shape)
        found = labels[kept]
        parts[split] = LabelledImages(images, found)
        broken += sorted({*paths.tolist()} - {*paths[kept].tolist()})
        if lost := sorted({*labels.tolist()} - {*found.tolist()}):
            raise ArtifactError(
                "Each class must have images that can be read. Received: none "
                f"of {[class_names[label] for label in lost]} in '{path}' for "
                f"{split}. Look at these files: they are damaged, missing, or "
                "no images."
            )
    _log_left_out(path, total, broken, ignored)
    return parts


def _shape_to_read(path, count, image_size, color_mode):
    """Returns the shape of images to be, if so many find room."""
    if image_size is None:
        raise UsageError(
            "Images from files must be brought to one size. Received: "
            f"image_size=None for '{path}'. Give `image_size` (`--image-size "
            "HEIGHT WIDTH`), the size that the model takes."
        )
    shape = (*image_size, CHANNELS[color_mode or "rgb"])
    check_room(count * math.prod(shape), path)
    return shape


def _log_left_out(path, total, broken, ignored):
    if left_out := [*ignored, *broken]:
        names = [os.path.relpath(each, _base(path)) for each in left_out]
        more = ", …" if len(names) > NUM_NAMED else ""
        _log.warning(
            "'%s': left out %d of %d files, %d that can not be read as images "
            "and %d of other kinds: %s%s",
            *(path, len(left_out), total + len(ignored), len(broken)),
            *(len(ignored), ", ".join(names[:NUM_NAMED]), more),
        )


def _base(path):
    return path if path.is_dir() else path.parent


def _read_images(
    paths: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads image files as `keras.utils.image_dataset_from_directory` does.

    Returns:
        Tuple of uint8 images and the indices of the files that they are of.
    """
    import tensorflow as tf

    height, width, channels = shape

    def read(index, path):
        image = _decode(tf.io.read_file(path), channels)
        image = tf.image.resize(image, (height, width))
        return index, tf.cast(tf.round(image), "uint8")

    data = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), paths))
    data = data.map(read, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    kept = []

    def batches():
        yield (np.empty((0, *shape), "uint8"),)
        for indices, images in data.batch(BATCH_SIZE).as_numpy_iterator():
            kept.extend(indices.tolist())
            yield (images,)

    (images,) = collect(batches())
    return images, np.array(kept, "int64")


def _decode(content, channels):
    """Decodes an image file of any form to as many channels."""
    import tensorflow as tf

    def decode(channels):
        return tf.image.decode_image(content, channels, expand_animations=False)

    def from_rgb():
        image = decode(3)
        if channels == 1:
            return tf.image.rgb_to_grayscale(image)
        opaque = tf.fill(tf.shape(image[..., :1]), tf.constant(255, "uint8"))
        return tf.concat([image, opaque], axis=-1)

    # Of such files TensorFlow makes color images only.
    starts = {1: (b"BM", b"GIF"), 4: (b"\xff\xd8\xff", b"GIF")}
    is_color = [
        tf.strings.substr(content, 0, len(start)) == start
        for start in starts.get(channels, ())
    ]
    if not is_color:
        return decode(channels)
    return tf.cond(tf.reduce_any(is_color), from_rgb, lambda: decode(channels))


def _read_npz(path: Path) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """Reads the splits and the class names of an .npz file."""
    with _open_npz(path) as file:
        parts = _npz_parts(file, path)
        class_names = file["class_names"] if "class_names" in file else None
    if class_names is None:
        labels = [labels for _, labels in parts.values()]
        class_names = range(_count_classes(labels, path))
    class_names = tuple(
        x.decode() if isinstance(x, bytes) else str(x) for x in class_names
    )
    return parts, _checked_labels(parts, class_names, path)


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    """Opens an .npz file; what is wrong with it becomes an `ArtifactError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        check_room(size, path)
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise ArtifactError(
            "An .npz file of images must have arrays of numbers. Received: "
            f"'{path}', {reason}. Write it with "
            "`numpy.savez(path, x_train=..., y_train=..., x_test=..., "
            "y_test=...)`."
        ) from error


def _read_unlabelled_npz(path, split):
    """Reads the images of an .npz file, whether it has labels or not."""
    names = [images for images, _ in ARRAYS[split or "train"]]
    names += () if split else UNLABELLED_ARRAYS
    with _open_npz(path) as file:
        found = [name for name in names if name in file]
        if not found and not split and len(file.files) == 1:
            found = file.files
        if not found:
            raise ArtifactError(
                "An .npz file of images without labels has one array, or one "
                f"of {names}. Received: {sorted(file)} in '{path}'. Name it "
                "so."
            )
        images = _read_array(file, found[0])
    return _checked_images(images, found[0], path)


def _checked_images(images, name, path):
    """Returns images `(n, height, width, channels)`."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not len(images) or images.dtype.kind not in "biuf":
        raise ArtifactError(
            "Images are numbers of shape (n, height, width, channels) or (n, "
            f"height, width), at least one. Received: {images.dtype} of shape "
            f"{images.shape} as {name!r} in '{path}'. Give images so, and name "
            f"their array {ARRAYS['train'][0][0]!r} or after another split."
        )
    return images


def _npz_parts(file, path):
    parts = {}
    for split, pairs in ARRAYS.items():
        for images, labels in pairs:
            if images in file and labels in file:
                array = _read_array(file, images)
                array, labels = to_arrays((array, file[labels]))
                parts[split] = _checked_images(array, images, path), labels
    if "train" not in parts:
        raise ArtifactError(
            "An .npz file of images must have the arrays `x_train` and "
            "`y_train`, and may have `x_val`, `y_val`, `x_test`, `y_test` and "
            f"`class_names`. Received: {sorted(file)} in '{path}'. Name them "
            "so."
        )
    return parts


def _read_array(file, name):
    """Reads an array of an .npz file, part by part."""
    with file.zip.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0
        if version > (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, is_by_column, dtype = read(stream)
        row = dtype.itemsize * math.prod(shape[1:])
        if is_by_column or dtype.hasobject or not shape or not row * shape[0]:
            return file[name]
        size = max(1, PART // row)
        counts = (
            min(size, shape[0] - start) for start in range(0, shape[0], size)
        )
        (array,) = collect(
            (np.frombuffer(stream.read(n * row), dtype).reshape(n, *shape[1:]),)
            for n in counts
        )
    return array


def _count_classes(labels, name):
    """Counts the classes of data that do not name them."""
    count = 1 + max(int(part.max()) for part in labels)
    if count > MAX_CLASSES:
        raise ArtifactError(
            f"Labels are class indices below {MAX_CLASSES:,}, counted from 0. "
            f"Received: {str(name)!r} with a label {count - 1}. Number the "
            "classes anew, `names, labels = numpy.unique(labels, "
            "return_inverse=True)`."
        )
    return count


def _checked_labels(parts, class_names, path):
    """Returns the class names if labels are indices of them."""
    found = np.unique(np.concatenate([each[1] for each in parts.values()]))
    if len(found) < 2 or found[0] < 0 or found[-1] >= len(class_names):
        raise ArtifactError(
            "Labels must be indices of `class_names`, and of two classes or "
            f"more. Received: '{path}' with labels from {found[0]} to "
            f"{found[-1]} for the {len(class_names)} classes "
            f"{list(class_names)}. Count classes from 0."
        )
    return class_names


def _all_splits(parts, class_names, path, validation_split, seed):
    """Cuts off what splits there are none of, every class in proportion."""

    def cut(part, share, seed):
        items, labels = part
        least = math.ceil(1 / min(share, 1 - share))
        counts = np.bincount(labels, minlength=len(class_names))
        few = {
            name: int(count)
            for name, count in zip(class_names, counts)
            if 0 < count < least
        }
        if few:
            raise ArtifactError(
                f"To cut a share of {share:g} off, each class needs at least "
                f"{least} images. Received: {few} in '{path}'. Take more "
                "images, or sort them into train, validation and test."
            )
        return [
            (take(items, indices), labels[indices])
            for indices in hold_out_indices(labels, share, seed)
        ]

    if WHOLE in parts:
        rest, test = cut(parts[WHOLE], TEST_SPLIT, TEST_SEED)
        parts = {"train": rest, "test": test}
    if "validation" not in parts:
        train, validation = cut(parts["train"], validation_split, seed)
        parts |= {"train": train, "validation": validation}
    if "test" not in parts:
        parts["test"] = tuple(each[:0] for each in parts["train"])
    return parts


def _digest(parts: Mapping[str, Any]) -> str:
    """Tells data from others of the same name."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for array in (parts[split].images, parts[split].labels):
            update_digest(digest, array)
    return digest.hexdigest()[:12]
