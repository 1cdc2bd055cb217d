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
from kmod.reuse.separation import Team
from kmod.reuse.separation import best_columns
from kmod.reuse.separation import separation
from kmod.reuse.separation import teams
from kmod.store.manifest import InputContract
from kmod.store.module_store import ModuleStore


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleChoice:
    """Which modules answer for each class, and what else there was.

    Attributes:
        stores: The stores, as they were given.
        chosen: For every class the indices of the stores of its modules.
        separation: For every class, by the indices of stores that have it,
            how well their modules together tell the class from the others:
            the chance that they score an image of the class higher than
            another, 0 to 1.
        num_images: How many labelled images the choice was made on.
    """

    stores: tuple[ModuleStore, ...]
    chosen: Mapping[str, Team]
    separation: Mapping[str, Mapping[Team, float]]
    num_images: int

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "images": self.num_images,
            "classes": {
                name: {
                    "stores": [str(self.stores[i].path) for i in team],
                    "separation": self.separation[name][team],
                    "single": {
                        str(self.stores[others[0]].path): value
                        for others, value in self.separation[name].items()
                        if len(others) == 1
                    },
                }
                for name, team in self.chosen.items()
            },
        }


def choose_modules(
    class_names: Sequence[str],
    stores: Sequence[ModuleStore],
    images: LabelledImages,
    *,
    contract: InputContract | None = None,
    modules_per_class: int = 1,
    track: Callable[[Sequence[ModuleStore]], Iterable[ModuleStore]] = iter,
) -> ModuleChoice:
    """Chooses the best module for every class of a new model.

    Every module runs once over a few labelled images; see `best_columns` for
    how they are compared. `compose` then calibrates those chosen to each
    other, with `calibration: joint`.

    Args:
        class_names: The classes of the new model, named as in the stores.
        stores: Stores that may have modules of them.
        images: Labelled images, labels in the order of `class_names`; some
            tens of each class do.
        contract: The images, if the stores take others.
        modules_per_class: How many modules, each of another store, may answer
            for a class together, at most; their odds are added.
        track: Wraps the stores, such as in a progress bar.

    Returns:
        The `ModuleChoice`.

    Raises:
        ArtifactError: If no store has a class, or it can not take the images.
        UsageError: If there are no images of a class, or
            `modules_per_class` is out of range.
    """
    _check(class_names, stores, images)
    if modules_per_class < 1:
        raise UsageError(
            "`modules_per_class` must be at least 1. Received: "
            f"modules_per_class={modules_per_class}"
        )
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
        name: teams(_log_odds(name, answers), modules_per_class)
        for name in class_names
    }
    chosen = best_columns(list(columns.values()), images.labels)
    return ModuleChoice(
        tuple(stores),
        dict(zip(class_names, chosen)),
        {
            name: {
                team: separation(scores, images.labels == label)
                for team, scores in columns[name].items()
            }
            for label, name in enumerate(class_names)
        },
        len(images),
    )


def _log_odds(name, answers):
    """Returns what each store that has a class says of it, by its index."""
    return {
        index: own[name].log_odds
        for index, own in enumerate(answers)
        if name in own
    }


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
    if len(class_names) < 2:
        raise UsageError(
            "A new model has at least two classes. Received: "
            f"{list(class_names)}. Name another one."
        )
    without = set(range(len(class_names))) - set(images.labels.tolist())
    if without:
        raise UsageError(
            "Modules are chosen on labelled images of every class. Received: "
            f"none of {[class_names[index] for index in sorted(without)]}. "
            "Give data sets that show them."
        )
