"""Plans a composition from manifests alone, without building anything."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.modules.class_module import ModuleInfo
from kmod.spec.model import ModuleRef
from kmod.spec.model import Spec
from kmod.store.manifest import InputContract
from kmod.store.module_store import ModuleStore
from kmod.store.module_store import load_store


@dataclasses.dataclass(frozen=True)
class PlannedModule:
    """A module of a composition.

    Attributes:
        ref: Where the module comes from.
        info: What is known of it.
    """

    ref: ModuleRef
    info: ModuleInfo

    @property
    def kernels(self) -> int:
        """Number of kernels of the module."""
        return sum(len(kept) for kept in self.info.kept_kernels.values())

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "store": self.ref.store,
            "module": self.ref.class_name,
            "retention_rate": self.info.retention_rate,
            "kernels": self.kernels,
            "parameters": self.info.parameters,
            "macs": self.info.macs,
        }


@dataclasses.dataclass(frozen=True)
class PlannedClass:
    """A class that modules answer for.

    Attributes:
        name: Name of the class in the composed model.
        modules: One module, or several of which any may recognise it.
    """

    name: str
    modules: tuple[PlannedModule, ...]


@dataclasses.dataclass(frozen=True)
class CompositionPlan:
    """What a spec will be built from.

    Attributes:
        spec: The spec.
        stores: The stores that modules are taken from, by id.
        input: What images all the modules take.
        classes: The classes that modules answer for, in the order of the
            outputs; of a patch spec only the patched one.
    """

    spec: Spec
    stores: Mapping[str, ModuleStore]
    input: InputContract
    classes: tuple[PlannedClass, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON.

        Totals are sums over the modules: what they have in common is built
        once, so the composed model may be smaller. A weak model that is
        patched does not count.
        """
        classes = [
            {"class": planned.name, **module.as_dict()}
            for planned in self.classes
            for module in planned.modules
        ]
        totals = {
            key: sum(planned[key] for planned in classes)
            for key in ("kernels", "parameters", "macs")
        }
        return {
            "name": self.spec.name,
            "class_names": list(self.spec.class_names),
            "input": dataclasses.asdict(self.input),
            "stores": {name: s.digest for name, s in self.stores.items()},
            "classes": classes,
            "total": totals,
        }


def plan(spec: Spec) -> CompositionPlan:
    """Works out what a spec needs, and whether it is there and fits.

    Only manifests are read, no model.

    Args:
        spec: The spec.

    Returns:
        The `CompositionPlan`.

    Raises:
        ArtifactError: If a store, module or weak model is missing, or if the
            modules take different images.
        IntegrityError: If a store is not the one whose digest the spec names.
    """
    wanted = _modules(spec)
    stores = {
        store: _open_store(store, spec)
        for store in dict.fromkeys(
            ref.store for _, refs in wanted for ref in refs
        )
    }
    classes = tuple(
        PlannedClass(
            name,
            tuple(
                PlannedModule(ref, stores[ref.store].info(ref.class_name))
                for ref in refs
            ),
        )
        for name, refs in wanted
    )
    if spec.base is not None and not spec.base.path.is_file():
        raise ArtifactError(
            "The `base` of a spec is a `.keras` file. Received: "
            f"'{spec.base.path}', which does not exist. Correct `base.path`; "
            "it is relative to the spec's folder."
        )
    return CompositionPlan(spec, stores, _common_input(stores), classes)


def _modules(spec):
    """Lists `(class name, modules)` of every class that modules score."""
    if spec.base is not None:
        return [(patch.class_name, (patch.module,)) for patch in spec.patches]
    return [(entry.name, entry.modules) for entry in spec.classes]


def _open_store(name, spec):
    ref = spec.stores[name]
    # The files of a module are checked when it is loaded.
    store = load_store(ref.path, verify=False)
    if ref.digest not in (None, store.digest):
        raise IntegrityError(
            f"Store {name!r} must have the digest that the spec names, "
            f"{ref.digest}. Received: {store.digest} in '{ref.path}'. Use the "
            "store that the spec was written for, or correct the digest."
        )
    return store


def _common_input(stores):
    contracts = {name: store.manifest.input for name, store in stores.items()}
    first = next(iter(contracts.values()))
    if any(contract != first for contract in contracts.values()):
        received = "; ".join(
            f"{name!r} takes {contract.dtype} images of shape "
            f"{contract.shape} with values from {contract.range[0]:g} to "
            f"{contract.range[1]:g}"
            for name, contract in contracts.items()
        )
        raise ArtifactError(
            "All modules of a composition must take the same images. "
            f"Received: {received}. Take the modules from source models of "
            "one input."
        )
    return first
