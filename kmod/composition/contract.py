"""The lines of a contract: what is tested of a store or composed model.

No framework is imported to list them.
"""

import dataclasses
import os
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.modules.manifest import STORE_FILE
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import load_store
from kmod.spec.model import Check
from kmod.spec.model import DataRef
from kmod.spec.model import build_checks
from kmod.spec.spec_file import load_checks
from kmod.spec.spec_file import load_spec

SPEC_FILE = "spec.yaml"
KERAS_FORM = "keras"
# Where the forms of a composed model are, beside its manifest.
FORM_PATHS = {
    "savedmodel": "saved_model",
    KERAS_FORM: "model.keras",
    "litert": "model.tflite",
    "onnx": "model.onnx",
}


@dataclasses.dataclass(frozen=True)
class ContractLine:
    """Something that is tested of a store or composed model.

    Attributes:
        kind: What it is: whether all files have their `digests`, whether a
            saved form gives the model's `answers`, whether the `prior` of
            classes is that of the lock, whether the recorded `metrics` of a
            module are measured again, a `check`, or whether there is a
            `contract` at all.
        form: The form whose answers it is about, if any.
        class_name: The class whose module it is about, if any.
        check: The check.
        recorded: What the check measured when the model was composed.
    """

    kind: Literal["digests", "answers", "prior", "metrics", "check", "contract"]
    form: str | None = None
    class_name: str | None = None
    check: Check | None = None
    recorded: float | None = None

    def __str__(self) -> str:
        if self.check is not None:
            return str(self.check)
        of = self.form
        if self.class_name is not None:
            of = repr(self.class_name)
        return self.kind if of is None else f"{self.kind} of {of}"


def contract_lines(
    path: str | Path, contract: str | Path | None = None
) -> list[ContractLine]:
    """Lists what is tested of a store or composed model, in this order.

    Args:
        path: Its directory.
        contract: YAML file of further checks, as `load_checks` reads it.

    Returns:
        The lines; only that of the digests if the manifest is broken.

    Raises:
        ArtifactError: If there is neither a store nor a composed model.
        InvalidSpecError: If `contract` is not valid.
        UsageError: If it is of classes that are not there.
    """
    path = Path(path)
    further = () if contract is None else load_checks(contract)
    digests = ContractLine("digests")
    try:
        if os.path.lexists(path / COMPOSITION_FILE):
            manifest = read_composition_manifest(path)
            own = list(_of_composition(path, manifest))
            names = manifest.class_names
        else:
            store = load_store(path, verify=False)
            own, names = list(_of_store(store)), store.class_names
            further = tuple(_of_modules(further, names))
    except IntegrityError:
        return [digests]
    for check in further:
        if check.class_name not in (None, *names):
            raise UsageError(
                f"A check is of one of the classes {list(names)} of '{path}'. "
                f"Received: one of {check.class_name!r} in '{contract}'. "
                "Correct the name."
            )
    more = [ContractLine("check", check=check) for check in further]
    return [digests, *own, *more]


def _of_composition(path, manifest: CompositionManifest):
    if FORM_PATHS[KERAS_FORM] not in manifest.files:
        yield ContractLine("answers")
        return
    for form, name in FORM_PATHS.items():
        if (path / name).exists():
            yield ContractLine("answers", form)
    if manifest.calibration.get("prior") is not None:
        yield ContractLine("prior")
    measured = manifest.metrics.get("checks", ())
    if not manifest.contract:
        yield ContractLine("contract")
        yield from _measured_lines(path, measured)
        return
    values = {
        key: row["value"]
        for key, row in zip(_keys(measured), measured, strict=True)
    }
    checks = build_checks(
        manifest.contract["checks"], (path / COMPOSITION_FILE).resolve()
    )
    for check in checks:
        value = values.get((check.metric, check.class_name, str(check.data)))
        recorded = value if isinstance(value, float) else None
        yield ContractLine("check", check=check, recorded=recorded)


def _keys(measured):
    return [(row["metric"], row["class"], str(row["data"])) for row in measured]


def _measured_lines(path, measured):
    """Lists the checks that earlier models passed."""
    paths = _paths(path / SPEC_FILE) if measured else {}
    for row in measured:
        name, _, split = row["data"].rpartition(":")
        data = paths.get(row["data"], DataRef(name, split))
        check = Check(row["metric"], row["min"], data, row["class"])
        yield ContractLine("check", check=check, recorded=row["value"])


def _paths(spec_path):
    """Returns where images of checks lie, which these manifests do not say."""
    data = (check.data for check in load_spec(spec_path).checks)
    return {str(ref): ref for ref in data if isinstance(ref.name, Path)}


def _of_store(store: ModuleStore) -> Iterator[ContractLine]:
    for name in store:
        yield ContractLine("answers", class_name=name)
    if store.manifest.contract is None:
        yield ContractLine("contract")
    else:
        entries = store.manifest.contract["checks"]
        checks = build_checks(entries, (store.path / STORE_FILE).resolve())
        for check in _of_modules(checks, store.class_names):
            yield ContractLine("check", check=check)
    recorded = store.manifest.data
    if not recorded.get("name") or not recorded.get("split"):
        yield ContractLine("metrics")
        return
    for name in store:
        if store.info(name).metrics:
            yield ContractLine("metrics", class_name=name)


def _of_modules(
    checks: Iterable[Check], class_names: tuple[str, ...]
) -> Iterator[Check]:
    """Turns a check of exactness into one of each module."""
    for check in checks:
        if check.metric == "exactness" and check.class_name is None:
            for name in class_names:
                yield dataclasses.replace(check, class_name=name)
        else:
            yield check
