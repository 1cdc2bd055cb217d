"""Chooses, class by class, the modules of a new model among several stores."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.reuse.donors import Donor
from kmod.reuse.donors import module_answers
from kmod.reuse.separation import best_columns
from kmod.reuse.separation import separation
from kmod.store.manifest import InputContract
from kmod.store.module_store import ModuleStore


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleChoice:
    """Which module answers for each class, and what else there was.

    Attributes:
        stores: The stores, as they were given.
        chosen: For every class the index of its store.
        separation: For every class, by the index of each store that has it,
            how well the module tells the class from the others: the chance
            that it scores an image of the class higher than another, 0 to 1.
        num_images: How many labelled images the choice was made on.
    """

    stores: tuple[ModuleStore, ...]
    chosen: Mapping[str, int]
    separation: Mapping[str, Mapping[int, float]]
    num_images: int

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "images": self.num_images,
            "classes": {
                name: {
                    "store": str(self.stores[index].path),
                    "separation": self.separation[name][index],
                    "others": {
                        str(self.stores[other].path): value
                        for other, value in self.separation[name].items()
                        if other != index
                    },
                }
                for name, index in self.chosen.items()
            },
        }


def choose_modules(
    class_names: Sequence[str],
    stores: Sequence[ModuleStore],
    images: LabelledImages,
    *,
    contract: InputContract | None = None,
    track: Callable[[Sequence[ModuleStore]], Iterable[ModuleStore]] = iter,
) -> ModuleChoice:
    """Chooses the best module for every class of a new model.

    Every module runs once over a few labelled images; see `best_columns` for
    how they are compared. `compose` then calibrates those chosen to each
    other, with `scores: fit`.

    Args:
        class_names: The classes of the new model, named as in the stores.
        stores: Stores that may have modules of them.
        images: Labelled images, labels in the order of `class_names`; some
            tens of each class do.
        contract: The images, if the stores take others.
        track: Wraps the stores, such as in a progress bar.

    Returns:
        The `ModuleChoice`.

    Raises:
        ArtifactError: If no store has a class, or it can not take the images.
        UsageError: If there are no images of a class.
    """
    _check(class_names, stores, images)
    answers = [
        module_answers(
            store,
            [name for name in class_names if name in store],
            images.images,
            Donor(store).adaptation(contract),
        )
        for store in track(stores)
    ]
    columns = {
        name: {
            index: found[name].log_odds
            for index, found in enumerate(answers)
            if name in found
        }
        for name in class_names
    }
    chosen = best_columns(list(columns.values()), images.labels)
    return ModuleChoice(
        tuple(stores),
        dict(zip(class_names, chosen)),
        {
            name: {
                index: separation(scores, images.labels == label)
                for index, scores in columns[name].items()
            }
            for label, name in enumerate(class_names)
        },
        len(images),
    )


def _check(class_names, stores, images):
    missing = [
        name
        for name in class_names
        if not any(name in store for store in stores)
    ]
    if missing:
        raise ArtifactError(
            "Every class must be one of a store's, of the same name. "
            f"Received: {missing}, which none of "
            f"{[str(store.path) for store in stores]} has. They have "
            f"{sorted({name for store in stores for name in store})}."
        )
    without = set(range(len(class_names))) - set(images.labels.tolist())
    if without or len(class_names) < 2:
        raise UsageError(
            "Modules are chosen for at least two classes, on images of each. "
            f"Received: {list(class_names)}, without images: "
            f"{[class_names[index] for index in sorted(without)]}. Give "
            "data sets that show them."
        )
