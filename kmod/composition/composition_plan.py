"""What a composition will be built from."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from kmod.modules.adaptation import Adaptation
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import ModuleFacts
from kmod.modules.module_store import ModuleStore
from kmod.spec.model import ModuleRef
from kmod.spec.model import Spec

FIGURES = ("kernels", "parameters", "macs")
ALL_CLASSES = "*"  # What supports no class alone.


@dataclasses.dataclass(frozen=True)
class PlannedModule:
    """A module of a composition.

    Attributes:
        ref: Where the module comes from.
        facts: Its figures.
        content: Its content digest: which model it is.
    """

    ref: ModuleRef
    facts: ModuleFacts
    content: str

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "store": self.ref.store,
            "module": self.ref.class_name,
            **dataclasses.asdict(self.facts),
        }


@dataclasses.dataclass(frozen=True)
class PlannedClass:
    """A class that modules answer for.

    Attributes:
        name: Name of the class in the composed model.
        modules: One module, or several of which any may recognise it; of a
            patch the module and those that support it.
    """

    name: str
    modules: tuple[PlannedModule, ...]


@dataclasses.dataclass(frozen=True)
class CompositionPlan:
    """What a spec will be built from.

    Attributes:
        spec: The spec.
        stores: The stores that modules are taken from, by id.
        input: What images the composed model takes.
        adaptations: For each of these stores, how such images become those
            that its modules take.
        classes: The classes that modules answer for, in the order of the
            outputs; of a patch spec only the patched ones.
        warnings: What may be a mistake, one line each, beginning with
            `file:line:column:`.
        support: Modules whose scores help to tell all classes apart.
    """

    spec: Spec
    stores: Mapping[str, ModuleStore]
    input: InputContract
    adaptations: Mapping[str, Adaptation]
    classes: tuple[PlannedClass, ...]
    warnings: tuple[str, ...] = ()
    support: tuple[PlannedModule, ...] = ()

    @property
    def modules(self) -> tuple[PlannedModule, ...]:
        """All modules, in the order of their classes, then those of support."""
        own = (m for planned in self.classes for m in planned.modules)
        return *own, *self.support

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON.

        `total` sums over all modules. `estimate` leaves out what is built
        once although several modules have it, as far as manifests tell: whole
        modules, and the stem of a source. Neither a weak model that is
        patched nor adapters count, nor what `fuse` changes a little.
        """
        return {
            "name": self.spec.name,
            "class_names": list(self.spec.class_names),
            "license": self.spec.license,
            "input": dataclasses.asdict(self.input),
            "stores": {
                name: {
                    "path": str(store.path),
                    "digest": store.digest,
                    "license": store.manifest.license,
                    "adapter": self.adaptations[name].as_dict(),
                }
                for name, store in self.stores.items()
            },
            "classes": [
                {"class": planned.name, **module.as_dict()}
                for planned in self.classes
                for module in planned.modules
            ]
            + [
                {"class": ALL_CLASSES, **module.as_dict()}
                for module in self.support
            ],
            "total": _sums(self.modules),
            "estimate": self._estimate(),
        }

    def _estimate(self):
        figures = dict.fromkeys(("parameters", "macs"), 0)
        for name, store in self.stores.items():
            distinct = {
                module.content: module
                for module in self.modules
                if module.ref.store == name
            }
            sums = _sums(distinct.values())
            stem = store.manifest.metrics.get("stem", {})
            for key in figures:
                repeated = (len(distinct) - 1) * stem.get(key, 0)
                figures[key] += sums[key] - repeated
        return figures


def _sums(modules: Iterable[PlannedModule]) -> dict[str, int]:
    facts = [module.facts for module in modules]
    return {key: sum(getattr(fact, key) for fact in facts) for key in FIGURES}
