"""Plans a composition from manifests alone, without building anything."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import KmodError
from kmod.files.plain_yaml import Fault
from kmod.files.plain_yaml import shorten
from kmod.metrics.calibration import prior_shifts
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import describe
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import CalibrationImages
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import ModuleSizes
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import load_store
from kmod.spec.faults import BrokenSourcesError
from kmod.spec.faults import UnfitSourcesError
from kmod.spec.faults import accepted
from kmod.spec.faults import did_you_mean
from kmod.spec.licences import LicenseSyntaxError
from kmod.spec.licences import is_permitted
from kmod.spec.licences import requirement
from kmod.spec.model import ModuleRef
from kmod.spec.model import Spec

DEFAULT_PRIOR = "even"  # benchmarks/priors.py compares.
SIZES = ("kernels", "parameters", "macs")
FEW_IMAGES = 10  # Of a class, to calibrate on.
ALL_CLASSES = "*"  # What the auxiliary modules of `scores` help.


@dataclasses.dataclass(frozen=True)
class PlannedModule:
    """A module of a composition.

    Attributes:
        ref: Where the module comes from.
        sizes: Its sizes.
        content: Its content digest: which model it is.
        calibration: The images that it was calibrated on, where known.
    """

    ref: ModuleRef
    sizes: ModuleSizes
    content: str
    calibration: CalibrationImages | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "store": self.ref.store,
            "module": self.ref.class_name,
            **dataclasses.asdict(self.sizes),
            "calibrated_on": self.calibration
            and dataclasses.asdict(self.calibration),
        }


@dataclasses.dataclass(frozen=True)
class PlannedClass:
    """A class that modules answer for.

    Attributes:
        name: Name of the class in the composed model.
        modules: One module, or several of which any may recognise it; of a
            patch the module and its auxiliary ones.
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
        auxiliary: Modules whose scores help to tell all classes apart.
    """

    spec: Spec
    stores: Mapping[str, ModuleStore]
    input: InputContract
    adaptations: Mapping[str, Adaptation]
    classes: tuple[PlannedClass, ...]
    warnings: tuple[str, ...] = ()
    auxiliary: tuple[PlannedModule, ...] = ()

    @property
    def modules(self) -> tuple[PlannedModule, ...]:
        """All modules in the order of their classes, then the auxiliary."""
        own = (m for planned in self.classes for m in planned.modules)
        return *own, *self.auxiliary

    @property
    def sources(self) -> Mapping[str, str]:
        """Id of a store of each source that classes come from, by digest."""
        found = {}
        for planned in self.classes:
            for module in planned.modules:
                name = module.ref.store
                digest = self.stores[name].manifest.source.digest
                found.setdefault(digest, name)
        return found

    @property
    def is_routed(self) -> bool:
        """Whether familiarity tells apart which source an image is of."""
        return (
            self.spec.base is None
            and self.spec.scores.calibration != "none"
            and self.spec.scores.familiarity
            and len(self.sources) > 1
            and all(
                self.stores[name].manifest.familiarity is not None
                for name in self.sources.values()
            )
        )

    @property
    def prior(self) -> str | Mapping[str, float] | None:
        """How frequent classes count as: `scores.prior`, or its default.

        `None` if neither the spec says it nor any module the images that it
        was calibrated on.
        """
        scores = self.spec.scores
        if scores.prior is not None or not scores.is_stored:
            return scores.prior
        is_known = any(module.calibration for module in self.modules)
        return DEFAULT_PRIOR if is_known and self.spec.base is None else None

    @property
    def shifts(self) -> tuple[float, ...]:
        """What is added to the stored score of each of `modules`, for `prior`.

        A class of several modules divides its share among them.
        """
        prior = self.prior
        is_stored = self.spec.scores.is_stored
        if not is_stored or prior in (None, "calibrated"):
            return (0.0,) * len(self.modules)
        rows = [(c, module) for c in self.classes for module in c.modules]
        wanted = None
        if prior != "even":
            wanted = [prior[c.name] / len(c.modules) for c, _ in rows]
        shares = (m.calibration and m.calibration.share for _, m in rows)
        return tuple(prior_shifts(list(shares), wanted))

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON.

        `total` sums over all modules. `estimate` leaves out what is built
        once although several modules have it, as far as manifests tell: whole
        modules, and the stem of a source. Neither a weak model that is
        patched nor adapters count, nor what familiarity adds and `fuse`
        changes a little.
        """
        names = [c.name for c in self.classes for _ in c.modules]
        names += [ALL_CLASSES] * len(self.auxiliary)
        return {
            "name": self.spec.name,
            "class_names": list(self.spec.class_names),
            "license": self.spec.license,
            "prior": self.prior,
            "routed": self.is_routed,
            "input": dataclasses.asdict(self.input),
            "stores": {
                name: {
                    "path": store.place,
                    "digest": store.digest,
                    "license": store.manifest.license,
                    "adapter": self.adaptations[name].as_dict(),
                }
                for name, store in self.stores.items()
            },
            "classes": [
                {"class": name, **module.as_dict(), "shift": shift}
                for name, module, shift in zip(
                    names, self.modules, self.shifts, strict=True
                )
            ],
            "total": _sums(self.modules),
            "estimate": self._estimate(),
        }

    def _estimate(self):
        estimate = dict.fromkeys(("parameters", "macs"), 0)
        for name, store in self.stores.items():
            distinct = {
                module.content: module
                for module in self.modules
                if module.ref.store == name
            }
            sums = _sums(distinct.values())
            stem = store.manifest.metrics.get("stem", {})
            for key in estimate:
                repeated = (len(distinct) - 1) * stem.get(key, 0)
                estimate[key] += sums[key] - repeated
        return estimate


def prior_in_words(prior: str | Mapping[str, float]) -> str:
    """Says how frequent classes count as, as `scores.prior` has it."""
    if prior == "even":
        return "equally frequent"
    if prior == "calibrated":
        return "as frequent as in the images that scores were calibrated on"
    shares = ", ".join(f"{name} {prior[name]:.1%}" for name in prior)
    return f"as frequent as {shares}"


def _sums(modules: Iterable[PlannedModule]) -> dict[str, int]:
    sizes = [module.sizes for module in modules]
    return {key: sum(getattr(each, key) for each in sizes) for key in SIZES}


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
    faults = Faults(spec)
    by_class = [*_modules_of_classes(spec), (ALL_CLASSES, _auxiliary(spec))]
    stores = _open_stores(spec, by_class, faults)
    *classes, auxiliary = (
        PlannedClass(name, _find_modules(stores, refs, faults))
        for name, refs in by_class
    )
    contract, adaptations = _plan_images(spec, stores, faults)
    _check_licences(spec, stores, faults)
    _check_familiarity(spec, stores, faults)
    _check_calibrations(spec, by_class, stores, faults)
    if spec.base is not None and not spec.base.path.is_file():
        faults.add(
            ("base", "path"),
            "the base is a `.keras` file. Received: "
            f"'{spec.base.path}', which does not exist.",
        )
    faults.check()
    return CompositionPlan(
        spec,
        stores,
        contract,
        adaptations,
        tuple(classes),
        faults.warnings,
        auxiliary.modules,
    )


class Faults:
    """Collects what is wrong with a spec's sources, to say it all at once.

    Args:
        spec: The spec. What a spec that was read from no file lacks is said
            of its first line.
    """

    def __init__(self, spec: Spec):
        self._places = spec.places
        self._path = _shown(spec.path)
        self._is_broken = False
        self._faults = []
        self._warnings = []

    def add(self, path: tuple[str | int, ...], problem: str | KmodError):
        """Notes a fault.

        Args:
            path: Where in the spec, such as `("stores", "cifar", "path")`.
            problem: What is wrong, in words or as the error that said so.
        """
        self._is_broken |= isinstance(problem, IntegrityError)
        self._faults.append(self._fault(path, str(problem)))

    def warn(self, path: tuple[str | int, ...], message: str) -> None:
        """Notes what looks like a mistake but may be none."""
        self._warnings.append(self._fault(path, f"warning: {message}"))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, in file order, as `file:line:column: message`."""
        return tuple(w.located(self._path) for w in sorted(self._warnings))

    def check(self) -> None:
        """Raises all faults as one error, if there are any.

        Raises:
            UnfitSourcesError: If something is missing or does not fit.
            BrokenSourcesError: If something is not as it was written.
        """
        if self._faults:
            error = BrokenSourcesError if self._is_broken else UnfitSourcesError
            raise error(self._path, self._faults)

    def _fault(self, path, message):
        while path and path not in self._places:
            path = path[:-1]  # A key that is not written stands in its parent.
        line, column = self._places.get(path, (1, 1))
        return Fault(line, column, " ".join(message.split()))


def _shown(path):
    """Returns a path as it is known to who works in this folder."""
    folder = Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _modules_of_classes(spec):
    """Lists `(class name, {path in the spec: module})` of every class."""
    if spec.base is not None:
        return [
            (patch.class_name, _modules_of_patch(patch, ("patches", index)))
            for index, patch in enumerate(spec.patches)
        ]
    found = []
    for index, entry in enumerate(spec.classes):
        path = "classes", index
        if len(entry.modules) == 1:
            refs = {(*path, "module"): entry.modules[0]}
        else:
            refs = {
                (*path, "any_of", number): ref
                for number, ref in enumerate(entry.modules)
            }
        found.append((entry.name, refs))
    return found


def _modules_of_patch(patch, path):
    refs = {(*path, "module"): patch.module}
    for number, ref in enumerate(patch.auxiliary_refs):
        refs[(*path, "auxiliary", number)] = ref
    return refs


def _auxiliary(spec):
    return {
        ("scores", "auxiliary", index): ref
        for index, ref in enumerate(spec.scores.auxiliary)
    }


def _open_stores(spec, by_class, faults):
    used = dict.fromkeys(
        ref.store for _, refs in by_class for ref in refs.values()
    )
    stores = {}
    for name in used:
        ref = spec.stores[name]
        try:
            # The files of a module are checked when it is loaded, those of
            # a pinned store below.
            store = stores[name] = load_store(ref.location, verify=False)
        except ArtifactError as error:
            faults.add(("stores", name, "path"), error)
            continue
        if ref.digest is not None:
            try:
                _check_pin(store, ref, name)
            except ArtifactError as error:
                faults.add(("stores", name, "digest"), error)
    return stores


def _check_pin(store, ref, name):
    """Holds a store, with all its files, against the digest in the spec."""
    if ref.digest == store.manifest.content_digest:
        raise IntegrityError(
            f"store {shorten(name)} must be pinned by the digest of all its "
            "files. Received: the digest of its content, which earlier specs "
            f"have and which covers no SavedModel. '{ref.path}' has "
            f"{store.digest}: check it with `kmod test`, then write that."
        )
    if ref.digest != store.digest:
        raise IntegrityError(
            f"store {shorten(name)} must have this digest. Received: "
            f"{store.digest} in '{ref.path}'. Use the store that the "
            "spec was written for, or correct the digest."
        )
    store.verify()


def _find_modules(stores, refs, faults):
    return tuple(
        module
        for path, ref in refs.items()
        if ref.store in stores
        and (module := _find_module(stores[ref.store], ref, path, faults))
    )


def _find_module(store, ref, path, faults):
    if ref.class_name not in store:
        faults.add(
            (*path, "class"),
            f"store {shorten(ref.store)} has no module of class "
            f"{shorten(ref.class_name)}."
            f"{did_you_mean(ref.class_name, store.class_names)} "
            f"{accepted(store.class_names)}",
        )
        return None
    try:
        sizes = store.sizes(ref.class_name)
    except ArtifactError as error:
        faults.add((*path, "class"), error)
        return None
    return PlannedModule(
        ref,
        sizes,
        store.content(ref.class_name),
        store.calibration_images(ref.class_name),
    )


def _plan_images(spec, stores, faults):
    contracts = {name: store.manifest.input for name, store in stores.items()}
    if spec.input is not None:
        images = InputContract(spec.input.shape, "float32", spec.input.range)
    else:
        images = next(iter(contracts.values()), None)
    adaptations = {}
    for name, contract in contracts.items():
        if spec.input is None and contract != images:
            faults.add(
                ("stores", name),
                "without `input`, all modules must take the same images. "
                f"Received: store {shorten(name)} for {describe(contract)}, "
                f"others for {describe(images)}. Say in `input` what images "
                "the composed model shall take.",
            )
            continue
        size = "resize" if spec.input is None else spec.input.size
        try:
            adaptations[name] = plan_adaptation(images, contract, size)
        except ArtifactError as error:
            faults.add(("stores", name), error)
    return images, adaptations


def _check_licences(spec, stores, faults):
    """Holds a spec's licence against those of the stores that it uses."""
    sources = {name: store.manifest.license for name, store in stores.items()}
    if spec.license is None:
        known = sorted({licence for licence in sources.values() if licence})
        if known:
            faults.warn(
                (),
                "the spec names no `license`. Its modules have "
                f"{', '.join(known)}.",
            )
        return
    for name, licence in sources.items():
        if licence is None:
            faults.warn(
                ("stores", name),
                f"store {shorten(name)} names no licence, so whether it "
                f"permits {spec.license} is not known.",
            )
        else:
            _check_licence(spec.license, name, licence, faults)


def _check_licence(result, name, licence, faults):
    try:
        answer = is_permitted(licence, result)
    except LicenseSyntaxError as error:
        faults.warn(
            ("stores", name),
            f"the licence of store {shorten(name)} is no SPDX expression: "
            f"{error}. Received: {shorten(licence)}. Check yourself whether "
            f"it permits {result}.",
        )
        return
    if answer is False:
        faults.add(
            ("license",),
            f"store {shorten(name)} does not permit this licence: "
            f"{requirement(licence)}. Received: {result}. Change `license`, "
            "or take modules from another store.",
        )
    elif answer is None:
        faults.warn(
            ("license",),
            f"whether store {shorten(name)} of {licence} permits {result} is "
            "not known here. Check it yourself.",
        )


def _check_familiarity(spec, stores, faults):
    """Modules of several sources have never seen each other's images."""
    if spec.base is not None:
        return
    lacking = [
        name
        for name, store in stores.items()
        if store.manifest.familiarity is None
    ]
    other = spec.scores.other
    if other is not None and other.reject is not None and lacking:
        faults.add(
            ("scores", "other", "reject"),
            "`reject` takes the familiarity of every source. Received: none "
            f"in {', '.join(map(shorten, lacking))}. Add it with `kmod "
            "familiarity STORE --data DATA`, or take `threshold` instead.",
        )
    sources = {store.manifest.source.digest for store in stores.values()}
    if len(sources) == 1 or spec.scores.is_fitted:
        return
    if not spec.scores.familiarity:
        faults.warn(
            ("scores", "familiarity"),
            "modules of different sources may be sure of each other's images. "
            "Leave it out, or take `calibration: joint` with a few labelled "
            "images of all classes.",
        )
        return
    if spec.scores.calibration == "none":
        faults.warn(
            ("scores", "calibration"),
            "modules of different sources may be sure of each other's images. "
            "Take `calibration: stored`, which tells by familiarity which "
            "source an image is of.",
        )
        return
    for name in lacking:
        faults.warn(
            ("stores", name),
            f"store {shorten(name)} holds no familiarity, and modules of "
            "different sources may be sure of each other's images. Add it "
            "with `kmod familiarity STORE --data DATA`, or take `scores: "
            "{calibration: joint, data: ...}` with a few labelled images of "
            "all classes.",
        )


def _check_calibrations(spec, by_class, stores, faults):
    """Says of stored calibrations that they rest on few images, or on none.

    Where frequencies of classes shall be others, those of the images that a
    module was calibrated on must be known.
    """
    if spec.base is not None or not spec.scores.is_stored:
        return
    modules = [
        (path, ref, stores[ref.store].calibration_images(ref.class_name))
        for _, refs in by_class
        for path, ref in refs.items()
        if ref.store in stores and ref.class_name in stores[ref.store]
    ]
    unknown = [
        f"{shorten(ref.class_name)} of store {shorten(ref.store)}"
        for _, ref, images in modules
        if images is None
    ]
    scores, key = spec.scores, "prior"
    if scores.calibration == "unlabelled":
        key = "calibration"
    if unknown and (key == "calibration" or _is_shifted(scores)):
        what = "`calibration: unlabelled`" if key != "prior" else "`prior`"
        faults.add(
            ("scores", key),
            f"{what} takes off how frequent the class of each module was "
            "among the images that it was calibrated on. Received: modules "
            f"that say nothing of them: {', '.join(unknown[:20])}. Calibrate "
            "them anew with `kmod refine` or `kmod modularize`, on images of "
            "every class; or write `calibration: fit` with images of your "
            f"own, or leave `{key}` out.",
        )
    calibrated = {
        name
        for name, store in stores.items()
        if any(record.calibration for record in store.manifest.modules)
    }
    for path, ref, images in modules:
        count = 0 if images is None else images.num_class_images
        if ref.store in calibrated and count < FEW_IMAGES:
            rests = f"on {count} images of its class" if count else "on nothing"
            faults.warn(
                path,
                f"module {shorten(ref.class_name)} of store "
                f"{shorten(ref.store)} is calibrated {rests}, unlike others, "
                "so its scores compare badly. Hold out more images of the "
                "class, or write `calibration: fit`.",
            )


def _is_shifted(scores):
    return scores.prior not in (None, "calibrated")
