"""The models and images that commands are given, checked for their fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kmod.errors import ArtifactError

if TYPE_CHECKING:
    import keras

    from kmod.data.image_data import ImageData
    from kmod.data.image_data import LabelledImages


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` file in safe mode.

    Raises:
        ArtifactError: If it is missing, of another format or damaged.
    """
    from kmod.composition.keras_file import load_keras_file

    return load_keras_file(path)


def load_classifier(path: str | Path) -> keras.Model:
    """Loads a `.keras` file, or a composed model with its `class_names`.

    Raises:
        ArtifactError: If there is none, or it can not be loaded.
        IntegrityError: If a composed model is not as it was written.
    """
    from kmod.composition.saving import load_composition

    return load_composition(path) if Path(path).is_dir() else load_model(path)


def images_for(
    model: keras.Model, data: ImageData, split: str
) -> tuple[LabelledImages, tuple[str, ...]]:
    """Picks the images of a model's classes, labelled in its order.

    Args:
        model: Classifier. Without `class_names` it must have the classes of
            the data set.
        data: Data set.
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        Tuple `(images, class names)`.

    Raises:
        ArtifactError: If images or classes do not fit the model.
    """
    from kmod.data.subsets import class_subset

    images = getattr(data, split)
    _check_shape(model, images, data)
    names = getattr(model, "class_names", None)
    if names is None:
        _check_number(model, data)
        return images, data.class_names
    _check_names(names, data)
    indices = [data.class_names.index(name) for name in names]
    return class_subset(images, indices), names


def check_range(
    value_range: Sequence[float], data: ImageData, owner: str
) -> None:
    """Checks that images have the range of values that a model takes.

    Args:
        value_range: Smallest and largest value of a pixel that it takes.
        data: Data set.
        owner: What takes them, in words.

    Raises:
        ArtifactError: If the data set has another range.
    """
    if tuple(value_range) != tuple(data.value_range):
        raise ArtifactError(
            f"{owner} takes values from {value_range[0]:g} to "
            f"{value_range[1]:g}. Received: data set {data.name!r} with values "
            f"from {data.value_range[0]:g} to {data.value_range[1]:g}. Give a "
            "data set of that range."
        )


def _check_shape(model, images, data):
    shape = images.images.shape[1:]
    wanted = tuple(model.input_shape[1:])
    sizes = zip(wanted, shape)
    if len(wanted) != len(shape) or any(w not in (None, s) for w, s in sizes):
        raise ArtifactError(
            f"The model takes images of shape {wanted}. Received: data set "
            f"{data.name!r} with images of shape {shape}. Give the data set "
            "that the model was made for."
        )


def _check_number(model, data):
    if tuple(model.output_shape) != (None, len(data.class_names)):
        raise ArtifactError(
            "A `.keras` file does not name its classes, so they must be those "
            f"of the data set, {len(data.class_names)} in {data.name!r}. "
            f"Received: an output of shape {model.output_shape}. Give another "
            "data set, or the directory of a composed model."
        )


def _check_names(names, data):
    unknown = sorted(set(names) - set(data.class_names))
    if unknown:
        raise ArtifactError(
            f"The model's classes must be among those of data set "
            f"{data.name!r}, {list(data.class_names)}. Received: {unknown}. "
            "Give a data set that has them."
        )
