"""Which modules of several stores were chosen for a new model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kmod.reuse.separation import Team
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
