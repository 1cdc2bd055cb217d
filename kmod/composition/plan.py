"""Plans a composition from manifests alone, without building anything."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from kmod.composition.adaptation import Adaptation
from kmod.composition.adaptation import describe
from kmod.composition.adaptation import plan_adaptation
from kmod.composition.findings import Findings
from kmod.composition.licences import check_licences
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.spec.explain import accepted
from kmod.spec.explain import did_you_mean
from kmod.spec.faults import shorten
from kmod.spec.model import ModuleRef
from kmod.spec.model import Spec
from kmod.store.manifest import InputContract
from kmod.store.manifest import ModuleFacts
from kmod.store.module_store import ModuleStore
from kmod.store.module_store import load_store

FIGURES = ("kernels", "parameters", "macs")


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
    """

    spec: Spec
    stores: Mapping[str, ModuleStore]
    input: InputContract
    adaptations: Mapping[str, Adaptation]
    classes: tuple[PlannedClass, ...]
    warnings: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[PlannedModule, ...]:
        """All modules, in the order of their classes."""
        return tuple(m for planned in self.classes for m in planned.modules)

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


def plan(spec: Spec) -> CompositionPlan:
    """Works out what a spec needs, and whether it is there and fits.

    Only manifests are read, no model.

    Args:
        spec: The spec.

    Returns:
        The `CompositionPlan`.

    Raises:
        ArtifactError: If a store, module or weak model is missing, if images
            can not be adapted to the modules, or if a licence does not permit
            the spec's. The message has a line for every such fault, beginning
            with `file:line:column:`.
        IntegrityError: The same, if one of them is that a store is not as it
            was written, or not the one whose digest the spec names.
    """
    findings = Findings(spec)
    wanted = _wanted(spec)
    stores = _open_stores(spec, wanted, findings)
    classes = _find_modules(stores, wanted, findings)
    contract, adaptations = _plan_images(spec, stores, findings)
    check_licences(
        spec, {n: s.manifest.license for n, s in stores.items()}, findings
    )
    _warn_of_apart_scores(spec, stores, findings)
    if spec.base is not None and not spec.base.path.is_file():
        findings.add(
            ("base", "path"),
            "the base is a `.keras` file. Received: "
            f"'{spec.base.path}', which does not exist.",
        )
    findings.check()
    return CompositionPlan(
        spec, stores, contract, adaptations, classes, findings.warnings
    )


def _warn_of_apart_scores(spec, stores, findings):
    """Modules of several sources have never seen each other's images."""
    sources = {store.manifest.source.digest for store in stores.values()}
    is_new = spec.base is None and len(sources) > 1
    if is_new and spec.scores.calibration != "fit":
        findings.warn(
            ("scores", "calibration"),
            "modules of different sources may be sure of each other's images. "
            "Take `scores: {calibration: fit, data: ...}` with a few labelled "
            "images of all classes.",
        )


def _sums(modules: Iterable[PlannedModule]) -> dict[str, int]:
    facts = [module.facts for module in modules]
    return {key: sum(getattr(fact, key) for fact in facts) for key in FIGURES}


def _wanted(spec):
    """Lists `(class name, {path in the spec: module})` of every class."""
    if spec.base is not None:
        return [
            (patch.class_name, _of_patch(patch, ("patches", index)))
            for index, patch in enumerate(spec.patches)
        ]
    wanted = []
    for index, entry in enumerate(spec.classes):
        path = "classes", index
        if len(entry.modules) == 1:
            refs = {(*path, "module"): entry.modules[0]}
        else:
            refs = {
                (*path, "any_of", number): ref
                for number, ref in enumerate(entry.modules)
            }
        wanted.append((entry.name, refs))
    return wanted


def _of_patch(patch, path):
    refs = {(*path, "module"): patch.module}
    for number, ref in enumerate(patch.supporting):
        refs[(*path, "support", number)] = ref
    return refs


def _open_stores(spec, wanted, findings):
    used = dict.fromkeys(
        ref.store for _, refs in wanted for ref in refs.values()
    )
    stores = {}
    for name in used:
        ref = spec.stores[name]
        try:
            # The files of a module are checked when it is loaded.
            store = stores[name] = load_store(ref.path, verify=False)
        except ArtifactError as error:
            findings.add(("stores", name, "path"), error)
            continue
        if ref.digest not in (None, store.digest):
            findings.add(
                ("stores", name, "digest"),
                IntegrityError(
                    f"store {shorten(name)} must have this digest. Received: "
                    f"{store.digest} in '{ref.path}'. Use the store that the "
                    "spec was written for, or correct the digest."
                ),
            )
    return stores


def _find_modules(stores, wanted, findings):
    return tuple(
        PlannedClass(
            name,
            tuple(
                module
                for path, ref in refs.items()
                if ref.store in stores
                and (module := _find_module(stores, ref, path, findings))
            ),
        )
        for name, refs in wanted
    )


def _find_module(stores, ref, path, findings):
    store = stores[ref.store]
    if ref.class_name not in store:
        findings.add(
            (*path, "class"),
            f"store {shorten(ref.store)} has no module of class "
            f"{shorten(ref.class_name)}."
            f"{did_you_mean(ref.class_name, store.class_names)} "
            f"{accepted(store.class_names)}",
        )
        return None
    try:
        facts = store.facts(ref.class_name)
    except ArtifactError as error:
        findings.add((*path, "class"), error)
        return None
    return PlannedModule(ref, facts, store.content(ref.class_name))


def _plan_images(spec, stores, findings):
    contracts = {name: store.manifest.input for name, store in stores.items()}
    if spec.input is not None:
        wanted = InputContract(spec.input.shape, "float32", spec.input.range)
    else:
        wanted = next(iter(contracts.values()), None)
    adaptations = {}
    for name, contract in contracts.items():
        if spec.input is None and contract != wanted:
            findings.add(
                ("stores", name),
                "without `input`, all modules must take the same images. "
                f"Received: store {shorten(name)} for {describe(contract)}, "
                f"others for {describe(wanted)}. Say in `input` what images "
                "the composed model shall take.",
            )
            continue
        size = "resize" if spec.input is None else spec.input.size
        try:
            adaptations[name] = plan_adaptation(wanted, contract, size)
        except ArtifactError as error:
            findings.add(("stores", name), error)
    return wanted, adaptations
