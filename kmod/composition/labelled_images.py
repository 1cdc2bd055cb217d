"""Images of a data set as a composed model takes and labels them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from kmod.composition.adaptation import plan_adaptation
from kmod.composition.adapters import adapt_images
from kmod.composition.plan import CompositionPlan
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.errors import ArtifactError
from kmod.spec.model import DataRef
from kmod.store.manifest import InputContract


def load_images(
    data: DataRef,
    planned: CompositionPlan,
    data_dir: str | Path | None = None,
) -> tuple[LabelledImages, tuple[str, ...]]:
    """Loads the images that a spec names, as its model takes them.

    Args:
        data: Name of the data set and its split.
        planned: The plan of the spec.
        data_dir: Directory of the prepared data sets.

    Returns:
        Tuple `(images, class names of the data set)`.

    Raises:
        ArtifactError: If the data set can not be loaded or adapted.
    """
    loaded = load_data(data.name, data_dir)
    size = planned.spec.input.size if planned.spec.input else "resize"
    images = adapted_split(loaded, data.split, planned.input, size)
    return images, loaded.class_names


def adapted_split(
    data: ImageData,
    split: str,
    contract: InputContract,
    size: Literal["resize", "pad"] = "resize",
) -> LabelledImages:
    """Returns the images of a split as a model takes them.

    Args:
        data: Data set.
        split: `"train"`, `"validation"` or `"test"`.
        contract: What the model takes.
        size: How images are brought to another size.

    Raises:
        ArtifactError: If the images can not be adapted.
    """
    found = getattr(data, split)
    # Keras itself turns images of another data type into the model's.
    own = InputContract(
        found.images.shape[1:], contract.dtype, tuple(data.value_range)
    )
    if own == contract:
        return found
    own = InputContract(own.shape, str(found.images.dtype), own.range)
    adaptation = plan_adaptation(own, contract, size)
    images = adapt_images(found.images, adaptation)
    return LabelledImages(images, found.labels)


def label_by_name(
    images: LabelledImages,
    data_classes: Sequence[str],
    class_names: Sequence[str],
    other: int | None = None,
) -> LabelledImages:
    """Labels images in the classes of a model, matched by name.

    Args:
        images: Images, labelled in the classes of the data set.
        data_classes: Classes of the data set.
        class_names: Classes of the model.
        other: Label for images of classes that the model lacks. Defaults to
            leaving them out.

    Returns:
        The images of the model's classes, with new labels.

    Raises:
        ArtifactError: If model and data set have no class in common.
    """
    if set(data_classes).isdisjoint(class_names):
        raise ArtifactError(
            "A data set must show classes of the model, of the same names. "
            f"Received: a data set of {list(data_classes)} for a model of "
            f"{list(class_names)}. Take another data set, or name the "
            "classes as it does."
        )
    outside = -1 if other is None else other
    indices = [
        class_names.index(name) if name in class_names else outside
        for name in data_classes
    ]
    labels = np.array(indices)[images.labels]
    kept = labels >= 0
    if kept.all():
        return LabelledImages(images.images, labels)
    return LabelledImages(images.images[kept], labels[kept])
