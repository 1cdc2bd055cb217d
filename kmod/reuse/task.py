"""From class names to the spec of a new model, in one step."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kmod.composition.labelled_images import ImageReader
from kmod.data.image_data import LabelledImages
from kmod.files import check_output_file
from kmod.reuse.choosing import choose_modules
from kmod.reuse.module_choice import ModuleChoice
from kmod.reuse.task_spec import task_spec
from kmod.spec.model import DataRef
from kmod.spec.model import InputSpec
from kmod.spec.model import Spec
from kmod.store.manifest import InputContract
from kmod.store.module_store import ModuleStore


def choose_task(
    class_names: Sequence[str],
    stores: Sequence[ModuleStore],
    data: Sequence[DataRef],
    path: str | Path,
    *,
    images_per_class: int = 50,
    data_dir: str | Path | None = None,
    modules_per_class: int = 1,
    alone: bool = False,
    overwrite: bool = False,
    track: Callable[[Sequence[ModuleStore]], Iterable[ModuleStore]] = iter,
) -> tuple[ModuleChoice, Spec]:
    """Chooses the modules of a new model and writes its spec.

    Where the stores take different images, the model takes the largest of
    them, and `compose` gives the modules adapters.

    Args:
        class_names: The classes of the new model.
        stores: Stores that may have modules of them.
        data: Labelled images that show them, not those of a test.
        path: The spec to write.
        images_per_class: How many images of each class are used, at most.
        data_dir: Directory of prepared data sets.
        modules_per_class: As `choose_modules` takes it.
        alone: As `choose_modules` takes it.
        overwrite: Whether a spec at `path` may be replaced that this function
            wrote and nobody edited.
        track: Wraps the stores, such as in a progress bar.

    Returns:
        What was chosen and why, and the spec, for `kmod.compose`.

    Raises:
        ArtifactError: If data or stores lack a class or do not fit.
        UsageError: If there are no images of a class, or something is at
            `path` that may not be replaced.

    Example:

    >>> choice, spec = kmod.choose_task(
    ...     ["cat", "Bag"], stores, data, "cat-or-bag.yaml")
    >>> model = kmod.compose(spec)
    """
    check_output_file(path, overwrite)
    contract, is_same = _contract(stores)
    images = _few(class_names, data, contract, images_per_class, data_dir)
    choice = choose_modules(
        class_names,
        stores,
        images,
        contract=contract,
        modules_per_class=modules_per_class,
        alone=alone,
        track=track,
    )
    spec = task_spec(
        choice,
        path,
        data,
        images_per_class=images_per_class,
        contract=None if is_same else InputSpec(contract.shape, contract.range),
        overwrite=overwrite,
    )
    return choice, spec


def _contract(stores) -> tuple[InputContract, bool]:
    """Returns the largest images that stores take, and if all take them."""
    contracts = [store.manifest.input for store in stores]
    largest = max(contracts, key=lambda each: np.prod(each.shape))
    return largest, all(each == largest for each in contracts)


def _few(class_names, data, contract, images_per_class, data_dir):
    reader = ImageReader(contract, "resize", tuple(class_names))
    parts = [reader.load(each, data_dir, images_per_class) for each in data]
    return LabelledImages(
        np.concatenate([part.images.astype("float32") for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
