"""From class names to the composition spec of a new model, in one step."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kmod.composition.labelled_images import ImageReader
from kmod.data.disk_arrays import concatenate
from kmod.data.image_data import LabelledImages
from kmod.data.load import parse_split
from kmod.errors import UsageError
from kmod.files import atomic_write
from kmod.files import check_output_file
from kmod.files import seal
from kmod.files import short_names
from kmod.files import slugs
from kmod.modules.module_store import ModuleStore
from kmod.selection.module_choice import ModuleChoice
from kmod.selection.module_choice import check_budget
from kmod.selection.module_choice import check_classes
from kmod.selection.module_choice import choose_by_figures
from kmod.selection.module_choice import choose_modules
from kmod.spec.faults import MAX_NUMBER
from kmod.spec.model import IN_MEMORY
from kmod.spec.model import ClassEntry
from kmod.spec.model import DataRef
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import Scores
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef
from kmod.spec.model import spec_data
from kmod.spec.spec_file import parse_spec
from kmod.spec.spec_file import spec_text


def choose_composition(
    class_names: Sequence[str],
    stores: Sequence[ModuleStore],
    data: Any,
    path: str | Path,
    *,
    images_per_class: int = 50,
    data_dir: str | Path | None = None,
    auxiliary: bool = True,
    macs_budget: float | None = None,
    overwrite: bool = False,
    track: Callable[[Sequence[ModuleStore]], Iterable[ModuleStore]] = iter,
) -> tuple[ModuleChoice, Spec]:
    """Chooses the modules of a new model and writes its composition spec.

    Where the stores take different images, the model takes the largest of
    them, and `compose` gives the modules adapters.

    Args:
        class_names: The classes of the new model.
        stores: Stores that may have modules of them.
        data: Labelled images that show them, not those of a test: a list of
            `DataRef`, or what `compose` takes as `data`, with labels in the
            order of `class_names`, to be given to `compose` again. `None`
            chooses by the figures that the stores hold, and the spec asks
            for no label.
        path: The spec to write.
        images_per_class: How many images of each class are used, at most.
        data_dir: Directory of prepared data sets.
        auxiliary: As `choose_modules` takes it.
        macs_budget: As `choose_modules` takes it; it takes `data`.
        overwrite: Whether a spec at `path` may be replaced that this function
            wrote and nobody edited.
        track: Wraps the stores, such as in a progress bar.

    Returns:
        What was chosen and why, and the spec, for `kmod.compose`.

    Raises:
        ArtifactError: If data or stores lack a class or do not fit.
        UsageError: If there are no images of a class, images have not the
            value range of the stores, a class is named twice, a number is out
            of range, a budget has no `data`, or something is at `path` that
            may not be replaced.
        ValueError: If labels are no class indices.

    Example:

    >>> choice, spec = kmod.choose_composition(
    ...     ["cat", "Bag"], stores, (images, labels), "cat-or-bag.yaml")
    >>> model = kmod.compose(spec, data=(images, labels))
    """
    check_output_file(path, overwrite)
    check_classes(class_names, stores)
    _check_numbers(images_per_class, macs_budget, data)
    path = Path(path).resolve()
    contracts = [store.manifest.input for store in stores]
    largest = max(contracts, key=lambda each: np.prod(each.shape))
    is_same = all(each == largest for each in contracts)
    contract = None if is_same else InputSpec(largest.shape, largest.range)
    if data is None:
        choice = choose_by_figures(class_names, stores)
        text = choice_text(choice, path, (), images_per_class, contract)
        return choice, _written(text, path, overwrite)
    given = _given(data)
    reader = ImageReader(
        largest, "resize", tuple(class_names), given=given or {}
    )
    data = tuple(data if given is None else given)
    parts = [reader.load(each, data_dir, images_per_class) for each in data]
    images = LabelledImages(
        concatenate([part.images for part in parts], "float32"),
        np.concatenate([part.labels for part in parts]),
    )
    choice = choose_modules(
        class_names,
        stores,
        images,
        contract=largest,
        auxiliary=auxiliary,
        macs_budget=macs_budget,
        track=track,
    )
    text = choice_text(choice, path, data, images_per_class, contract)
    return choice, _written(text, path, overwrite)


def _check_numbers(images_per_class, macs_budget, data):
    if not 1 <= images_per_class <= MAX_NUMBER:
        raise UsageError(
            f"`images_per_class` must be from 1 to {MAX_NUMBER}. Received: "
            f"images_per_class={images_per_class}."
        )
    check_budget(macs_budget)
    if macs_budget is not None and data is None:
        raise UsageError(
            "A budget is kept by comparing models on labelled images. "
            f"Received: macs_budget={macs_budget} without `data`. Give "
            "`data`, or leave the budget out."
        )


def _written(text, path, overwrite):
    spec = parse_spec(text.encode("utf-8"), path)
    check_output_file(path, overwrite)
    atomic_write(path, text)
    return spec


def _given(data):
    """Returns images that were given by the name that the spec has for them."""
    if isinstance(data, Mapping):
        return {DataRef(*parse_split(name)): data[name] for name in data}
    is_named = isinstance(data, (tuple, list)) and all(
        isinstance(each, DataRef) for each in data
    )
    return None if is_named else {IN_MEMORY: data}


def choice_text(
    choice: ModuleChoice,
    path: Path,
    data: Sequence[DataRef],
    images_per_class: int,
    contract: InputSpec | None = None,
) -> str:
    """Returns the sealed spec of the modules chosen, comments say why.

    Args are those of `choose_composition`. The model takes images of
    `contract`, or what the modules take if that is `None`.
    """
    used = {*choice.chosen.values(), *(index for index, _ in choice.auxiliary)}
    paths = {index: choice.stores[index].place for index in sorted(used)}
    by_path = short_names(paths.values())
    by_name = slugs(by_path.values())
    ids = {index: by_name[by_path[paths[index]]] for index in paths}
    spec = Spec(
        name=path.stem,
        path=path,
        stores={
            ids[index]: StoreRef.of(choice.stores[index].location)
            for index in ids
        },
        input=contract,
        classes=tuple(
            ClassEntry(name, (ModuleRef(ids[index], name),))
            for name, index in choice.chosen.items()
        ),
        scores=Scores(
            "joint" if data else "stored",
            tuple(data),
            images_per_class,
            auxiliary=tuple(
                ModuleRef(ids[index], name) for index, name in choice.auxiliary
            ),
            familiarity=choice.familiarity,
        ),
    )
    text = spec_text(spec_data(spec), path)
    return seal("\n".join([*_comments(choice, ids), text]))


def _comments(choice, ids):
    count = choice.num_images
    if count:
        how = "with their ROC AUC"
        yield f"# Modules chosen on {count} labelled images, {how}."
    else:
        yield "# Modules chosen by the F1 that their stores hold."
    for name, index in choice.chosen.items():
        values = (choice.roc_auc or choice.f1)[name]
        line = f"# {name!a}: {ids[index]} {values[index]:.3f}"
        rest = [value for other, value in values.items() if other != index]
        yield f"{line}, the best other {max(rest):.3f}" if rest else line
    if not choice.familiarity:
        yield "# Without familiarity the truth was likelier."
    if choice.auxiliary:
        yield (
            "# With those of `auxiliary`, which the model runs as well, the "
            "truth was likelier."
        )
