"""From class names to the spec of a new model, in one step."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kmod.composition.labelled_images import ImageReader
from kmod.data.image_data import LabelledImages
from kmod.files import atomic_write
from kmod.files import check_output_file
from kmod.files import seal
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.selection.choosing import ModuleChoice
from kmod.selection.choosing import choose_modules
from kmod.spec.loader import parse_spec
from kmod.spec.model import ClassEntry
from kmod.spec.model import DataRef
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import Scores
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef
from kmod.spec.writer import spec_data
from kmod.spec.writer import spec_text


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


def task_spec(
    choice: ModuleChoice,
    path: str | Path,
    data: Sequence[DataRef],
    *,
    images_per_class: int,
    contract: InputSpec | None = None,
    overwrite: bool = False,
) -> Spec:
    """Writes the spec of the modules chosen, with comments that say why.

    Args:
        choice: From `choose_modules`.
        path: File to write.
        data: The labelled images it was made on; `compose` calibrates on
            them.
        images_per_class: How many of each class they are, at most.
        contract: The images that the composed model takes; `None` for those
            of the modules.
        overwrite: Whether a spec at `path` may be replaced that this function
            wrote and nobody edited.

    Returns:
        The spec, as `load_spec` reads it.

    Raises:
        UsageError: If something is at `path` that may not be replaced.
    """
    path = Path(path).resolve()
    check_output_file(path, overwrite)
    ids = {
        index: f"store-{number}"
        for number, index in enumerate(
            sorted(
                {i for team in choice.chosen.values() for i in team}
                | {i for i, _ in choice.support}
            ),
            1,
        )
    }
    spec = Spec(
        name=path.stem,
        path=path,
        stores={
            ids[index]: StoreRef(choice.stores[index].path) for index in ids
        },
        input=contract,
        classes=tuple(
            ClassEntry(name, tuple(ModuleRef(ids[i], name) for i in team))
            for name, team in choice.chosen.items()
        ),
        scores=Scores(
            "joint",
            tuple(data),
            images_per_class,
            support=tuple(
                ModuleRef(ids[i], name) for i, name in choice.support
            ),
        ),
    )
    text = spec_text(spec_data(spec), path)
    text = seal("\n".join([*_comments(choice, ids), text]))
    written = parse_spec(text.encode("utf-8"), path)
    atomic_write(path, text)
    return written


def _comments(choice, ids):
    yield (
        f"# Modules chosen on {choice.num_images} labelled images. The number "
        "is the chance"
    )
    yield "# that a module scores an image of its class higher than another."
    for name, team in choice.chosen.items():
        values = choice.separation[name]
        used = " + ".join(ids[index] for index in team)
        line = f"# {name!a}: {used} {values[team]:.3f}"
        rest = [value for other, value in values.items() if other != team]
        yield f"{line}, the best other {max(rest):.3f}" if rest else line
    if choice.support:
        yield (
            "# With those of `support`, which the model runs as well, the "
            "truth was likelier."
        )
