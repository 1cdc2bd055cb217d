"""Plans a composition from manifests alone, without building anything."""

from kmod.composition.composition_plan import CompositionPlan
from kmod.composition.composition_plan import PlannedClass
from kmod.composition.composition_plan import PlannedModule
from kmod.composition.findings import Findings
from kmod.composition.licences import check_licences
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.modules.adaptation import describe
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import load_store
from kmod.spec.explain import accepted
from kmod.spec.explain import did_you_mean
from kmod.spec.faults import shorten
from kmod.spec.model import Spec


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
    wanted, support = _wanted(spec), _supporting(spec)
    stores = _open_stores(spec, [*wanted, (None, support)], findings)
    classes = tuple(
        PlannedClass(name, _find_modules(stores, refs, findings))
        for name, refs in wanted
    )
    supporting = _find_modules(stores, support, findings)
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
        spec,
        stores,
        contract,
        adaptations,
        classes,
        findings.warnings,
        supporting,
    )


def _warn_of_apart_scores(spec, stores, findings):
    """Modules of several sources have never seen each other's images."""
    sources = {store.manifest.source.digest for store in stores.values()}
    is_new = spec.base is None and len(sources) > 1
    if is_new and not spec.scores.is_fitted:
        findings.warn(
            ("scores", "calibration"),
            "modules of different sources may be sure of each other's images. "
            "Take `scores: {calibration: joint, data: ...}` with a few "
            "labelled images of all classes.",
        )


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


def _supporting(spec):
    return {
        ("scores", "support", index): ref
        for index, ref in enumerate(spec.scores.support)
    }


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
            # The files of a module are checked when it is loaded, those of
            # a pinned store below.
            store = stores[name] = load_store(ref.path, verify=False)
        except ArtifactError as error:
            findings.add(("stores", name, "path"), error)
            continue
        if ref.digest is not None:
            try:
                _check_pin(store, ref, name)
            except ArtifactError as error:
                findings.add(("stores", name, "digest"), error)
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


def _find_modules(stores, refs, findings):
    return tuple(
        module
        for path, ref in refs.items()
        if ref.store in stores
        and (module := _find_module(stores, ref, path, findings))
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
