"""The models and images that commands are given, checked for their fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import check_output

if TYPE_CHECKING:
    import keras

    from kmod.data.image_data import ImageData
    from kmod.data.image_data import LabelledImages
    from kmod.files.atomic import Listing
    from kmod.modules.manifest import InputContract


def check_out(out: str | Path, overwrite: bool, listing: Listing) -> Path:
    """Returns the directory to make, before any work is done for it.

    Args:
        out: The directory.
        overwrite: Whether what kmod wrote there may be replaced.
        listing: Reads what the manifest of such a directory lists.

    Raises:
        UsageError: If something is there that may not be replaced.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise UsageError(
            f"`--out` must be a new directory. Received: '{out}', which is "
            "there. Choose another, or give `--overwrite`."
        )
    check_output(out, overwrite, listing)
    return out


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` file in safe mode.

    Raises:
        ArtifactError: If it is missing, of another format or damaged.
    """
    from kmod.export.keras_file import load_keras_file

    return load_keras_file(path, allow_custom=True)


def load_classifier(path: str | Path) -> keras.Model:
    """Loads a `.keras` file, or a composed model with its `class_names`.

    Raises:
        ArtifactError: If there is none, or it can not be loaded.
        IntegrityError: If a composed model is not as it was written.
    """
    from kmod.composition.saving import load

    return load(path) if Path(path).is_dir() else load_model(path)


def images_for(
    model: keras.Model, data: ImageData, split: str
) -> LabelledImages:
    """Picks the images for a `.keras` file.

    Args:
        model: Classifier of the classes of the data set.
        data: Data set.
        split: `"train"`, `"validation"` or `"test"`.

    Raises:
        ArtifactError: If images or classes do not fit the model.
    """
    images = getattr(data, split)
    shape, wanted = images.images.shape[1:], tuple(model.input_shape[1:])
    sizes = zip(wanted, shape)
    if len(wanted) != len(shape) or any(w not in (None, s) for w, s in sizes):
        raise ArtifactError(
            f"The model takes images of shape {wanted}. Received: data set "
            f"{data.name!r} with images of shape {shape}. Give the data set "
            "that the model was made for."
        )
    if tuple(model.output_shape) != (None, len(data.class_names)):
        raise ArtifactError(
            "A `.keras` file does not name its classes, so they must be those "
            f"of the data set, {len(data.class_names)} in {data.name!r}. "
            f"Received: an output of shape {model.output_shape}. Give another "
            "data set, or the directory of a composed model."
        )
    return images


def image_contract(data: ImageData) -> InputContract:
    """Returns what a model takes that was made for a data set."""
    from kmod.modules.manifest import InputContract

    shape = data.train.images.shape[1:]
    return InputContract(shape, "float32", tuple(data.value_range))
