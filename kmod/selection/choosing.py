"""Chooses, class by class, the modules of a new model among several stores."""

import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.patching.donors import Donor
from kmod.patching.donors import module_answers
from kmod.selection.separation import Team
from kmod.selection.separation import best_columns
from kmod.selection.separation import separation
from kmod.selection.separation import teams
from kmod.selection.support import best_support
from kmod.selection.support import support_options


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
        support: Further modules that help to tell the classes apart, as the
            index of a store and a class of it.
    """

    stores: tuple[ModuleStore, ...]
    chosen: Mapping[str, Team]
    separation: Mapping[str, Mapping[Team, float]]
    num_images: int
    support: tuple[tuple[int, str], ...] = ()

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
            "support": [
                {"store": str(self.stores[index].path), "class": name}
                for index, name in self.support
            ],
        }


def choose_modules(
    class_names: Sequence[str],
    stores: Sequence[ModuleStore],
    images: LabelledImages,
    *,
    contract: InputContract | None = None,
    modules_per_class: int = 1,
    alone: bool = False,
    track: Callable[[Sequence[ModuleStore]], Iterable[ModuleStore]] = iter,
) -> ModuleChoice:
    """Chooses the best module for every class of a new model.

    Every module runs once over a few labelled images; see `best_columns` for
    how they are compared. Then other modules may support the choice, if that
    makes the truth likelier: those of the model's own classes, or all of the
    stores that are in. `compose` calibrates all of them to each
    other, with `calibration: joint`.

    Args:
        class_names: The classes of the new model, named as in the stores.
        stores: Stores that may have modules of them.
        images: Labelled images, labels in the order of `class_names`; some
            tens of each class do.
        contract: The images, if the stores take others.
        modules_per_class: How many modules, each of another store, may answer
            for a class together, at most; their odds are added.
        alone: Whether to take the classes' own modules only, which makes the
            model smaller.
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
        _answers(
            store, [c for c in class_names if c in store], images, contract
        )
        for store in track(stores)
    ]
    columns = {
        name: teams(_log_odds(name, answers), modules_per_class)
        for name in class_names
    }
    chosen = dict(
        zip(class_names, best_columns(list(columns.values()), images.labels))
    )
    support = ()
    if not alone:
        support = _support(chosen, columns, answers, stores, images, contract)
    return ModuleChoice(
        tuple(stores),
        chosen,
        {
            name: {
                team: separation(scores, images.labels == label)
                for team, scores in columns[name].items()
            }
            for label, name in enumerate(class_names)
        },
        len(images),
        support,
    )


def _answers(store, class_names, images, contract):
    adaptation = Donor(store).adaptation(contract)
    return module_answers(store, class_names, images.images, adaptation)


def _support(chosen, columns, answers, stores, images, contract):
    """Returns which other modules help."""
    own = [(team[0], name) for name, team in chosen.items() if len(team) == 1]
    used = sorted({i for team in chosen.values() for i in team})
    others = (
        (index, name)
        for index in used
        for name in stores[index].class_names
        if (index, name) not in own
    )
    elsewhere = (
        (index, name)
        for index, store in enumerate(stores)
        for name in chosen
        if index not in used and name in store
    )
    options = support_options(
        others, elsewhere, lambda module: module[1] in chosen, len(images)
    )
    _run_more(answers, options, stores, images, contract)
    scores = [columns[name][team] for name, team in chosen.items()]
    return best_support(
        np.stack(scores, axis=1),
        {option: _scores_of(answers, option, images) for option in options},
        images.labels,
    )


def _run_more(answers, options, stores, images, contract):
    """Adds the answers of modules that only support."""
    missing = {}
    for index, name in dict.fromkeys(itertools.chain(*options)):
        if name not in answers[index]:
            missing.setdefault(index, []).append(name)
    for index, names in missing.items():
        answers[index] |= _answers(stores[index], names, images, contract)


def _scores_of(answers, modules, images):
    """Returns what modules say, `(n, modules)`, of which there may be none."""
    columns = [answers[index][name].log_odds for index, name in modules]
    return np.reshape(columns, (len(columns), len(images))).T


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
