"""Opens what a report is of: a store, a composition, a demo or a spec.

Only manifests are read. Keras is imported when the model is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.composition_manifest import is_own
from kmod.composition.composition_manifest import is_patched
from kmod.composition.composition_manifest import manifest_of
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.plan import CompositionPlan
from kmod.composition.plan import plan
from kmod.errors import ArtifactError
from kmod.errors import KmodError
from kmod.errors import UsageError
from kmod.files import check_files
from kmod.modules.class_module import ModuleInfo
from kmod.modules.manifest import STORE_FILE
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import load_store
from kmod.spec.model import BaseModel
from kmod.spec.model import Spec
from kmod.spec.model import build_spec
from kmod.spec.spec_file import load_spec

if TYPE_CHECKING:
    import keras

RESULTS_FILE = "results.json"  # Of the demo.
DEMO_SPEC = "all-classes.yaml"
SPEC_FILE = "spec.yaml"  # Of a composed model.
_SPECS = (".yaml", ".yml")


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What a report is of.

    Attributes:
        kind: What it is in a word or two, such as `"module store"`.
        manifest: What is known of the composition; of a store, of all its
            modules composed.
        stores: The stores of its modules that are there, as they were when it
            was composed, by id.
        spec: The spec that made it, or would make it; `None` if none did.
        plan: What the spec plans, if its stores are there.
        store: The store, if it is one, or the demo's.
        size: Bytes on disk, where it has any.
        results: What a demo measured; empty otherwise.
        missing: Why its stores are left out, if they are.
        load: Returns the model.
        load_weak: Returns what a patch started from, as `(model, output)`;
            `None` if it is not known.
        load_patched: Returns the patched model.
    """

    kind: str
    manifest: CompositionManifest
    stores: Mapping[str, ModuleStore]
    spec: Spec | None = None
    plan: CompositionPlan | None = None
    store: ModuleStore | None = None
    size: int | None = None
    results: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    missing: str = ""
    load: Callable[[], keras.Model] | None = None
    load_weak: Callable[[], tuple[keras.Model, str | None]] | None = None
    load_patched: Callable[[], keras.Model] | None = None

    @functools.cached_property
    def model(self) -> keras.Model:
        """The model that its classes are measured with."""
        return self.load()

    @functools.cached_property
    def module_infos(self) -> dict[str, list[ModuleInfo]]:
        """What is known of its modules, by id of the store, read once."""
        used = {
            (source["store"], source["module"])
            for source in self.manifest.sources
        }
        return {
            key: [
                store.info(name)
                for name in store
                if (store.digest, name) in used
            ]
            for key, store in self.stores.items()
        }


def open_subject(thing: Any, data_dir: str | Path | None = None) -> Subject:
    """Opens what a report can be of.

    Args:
        thing: Path of a module store, of a composed, patched, distilled or
            slim model, of a demo or of a spec; a `ModuleStore`; or a model
            that kmod made or loaded.
        data_dir: Directory of the prepared data sets that a spec names.

    Returns:
        The `Subject`.

    Raises:
        ArtifactError: If there is no such thing.
        IntegrityError: If it is not as it was written.
        SpecError: If it is a spec that is not valid.
        UsageError: If it is something else.
    """
    if isinstance(thing, ModuleStore):
        return _of_store(thing)
    if isinstance(thing, (str, Path)):
        return _of_path(Path(thing), data_dir)
    made_from = getattr(thing, "composition", None)
    if isinstance(made_from, Composition):
        return _of_model(thing, made_from)
    manifest = getattr(thing, "manifest", None)
    if isinstance(manifest, CompositionManifest):
        return _of_manifest(manifest, None, "", lambda: thing)
    raise UsageError(
        "A report is of a path, a `ModuleStore` or a model that "
        "`kmod.compose`, `kmod.patch`, `kmod.distil`, `kmod.slim` or "
        f"`kmod.load` returned. Received: {type(thing).__name__}. Give one of "
        "them."
    )


def _of_path(path, data_dir):
    if path.suffix in _SPECS and not path.is_dir():
        return _of_spec(load_spec(path), data_dir)
    if os.path.lexists(path / STORE_FILE):
        return _of_store(load_store(path))
    if os.path.lexists(path / COMPOSITION_FILE):
        return _of_directory(path)
    if (path / RESULTS_FILE).is_file() and (path / DEMO_SPEC).is_file():
        return open_demo(path)
    files = f"{STORE_FILE}, {COMPOSITION_FILE} or {RESULTS_FILE}"
    raise ArtifactError(
        "A report is of a spec, or of a directory of kmod with one of the "
        f"files {files}. Received: '{path}', which is neither. Give a store, "
        "a composed model, a demo or a spec; `kmod inspect` takes `.keras` "
        "files."
    )


def _of_store(store):
    spec = build_spec(
        {
            "version": 1,
            "name": store.manifest.source.name,
            "stores": {"source": {"path": str(store.path)}},
            "classes": [
                {"name": name, "module": {"store": "source", "class": name}}
                for name in store
            ],
        },
        store.path.parent / "all-classes.yaml",
    )
    planned = plan(spec)
    estimate = planned.as_dict()["estimate"]
    manifest = dataclasses.replace(manifest_of(planned), sizes=estimate)
    return Subject(
        "module store",
        manifest,
        {"source": store},
        spec,
        planned,
        store,
        _bytes_below(store.path),
        load=lambda: _compose(planned),
    )


def _compose(planned, data_dir=None):
    from kmod.composition.composer import compose_plan

    return compose_plan(planned, data_dir)


def _of_spec(spec, data_dir):
    planned = plan(spec)
    model = _compose(planned, data_dir)
    return _of_model(model, model.composition)


def _of_model(model, made_from):
    from kmod.composition.composition_manifest import total_sizes

    manifest = dataclasses.replace(
        made_from.manifest, sizes=total_sizes([model])
    )
    planned = made_from.plan
    found = _of_manifest(manifest, planned and planned.spec, "", lambda: model)
    return dataclasses.replace(
        found, plan=planned, stores=planned.stores if planned else {}
    )


def _of_directory(path):
    from kmod.composition.saving import load

    manifest = read_composition_manifest(path)
    check_files(path, manifest.files, COMPOSITION_FILE)
    spec = load_spec(path / SPEC_FILE) if SPEC_FILE in manifest.files else None
    found = _of_manifest(manifest, spec, "", lambda: load(path))
    size = sum(record["size"] for record in manifest.files.values())
    planned, missing = _plan_again(spec, manifest)
    return dataclasses.replace(
        found,
        plan=planned,
        stores=planned.stores if planned else {},
        size=size,
        missing=missing,
    )


def _plan_again(spec, manifest):
    """Plans a spec anew, if its stores are there as they were."""
    if spec is None:
        return None, "No spec says which stores its modules are from."
    try:
        planned = plan(spec)
    except KmodError:
        return None, (
            "The stores of its modules are not where its spec says, so what "
            "only they tell is left out."
        )
    digests = {source["store"] for source in manifest.sources}
    if any(s.digest not in digests for s in planned.stores.values()):
        return None, (
            "The stores of its modules were changed since it was composed, "
            "so what only they tell is left out."
        )
    return planned, ""


def _of_manifest(manifest, spec, missing, load):
    base = spec and spec.base
    if manifest.student:
        kind = "distilled model"
    elif manifest.slimmed:
        kind = "slim model"
    elif is_own(manifest):
        kind = "model"
    elif base is not None or is_patched(manifest):
        kind = "patched model"
    else:
        kind = "composed model"
    return Subject(
        kind,
        manifest,
        {},
        spec,
        missing=missing,
        load=load,
        load_weak=base and functools.partial(_load_weak, base),
        load_patched=base and load,
    )


def _load_weak(base: BaseModel):
    from kmod.export.keras_file import load_keras_file

    return load_keras_file(base.path, allow_custom=True), base.output


def open_demo(path: Path, results: Mapping[str, Any] | None = None) -> Subject:
    """Opens the directory of a demo.

    Args:
        path: The directory.
        results: What it measured. Defaults to what its `results.json` holds.

    Raises:
        ArtifactError: If it holds none.
    """
    if results is None:
        results = _read_results(path / RESULTS_FILE)
    spec = load_spec(path / DEMO_SPEC)
    planned = plan(spec)
    (store,) = planned.stores.values()

    def load(name):
        from kmod.export.keras_file import load_keras_file

        return load_keras_file(path / name, allow_custom=True)

    sizes = results["sizes"]["composed"]
    manifest = dataclasses.replace(
        manifest_of(planned),
        sizes={key: sizes[key] for key in ("parameters", "macs")},
    )
    return Subject(
        "demo",
        manifest,
        planned.stores,
        spec,
        planned,
        store,
        results=results,
        load=functools.partial(load, "composed.keras"),
        load_weak=lambda: (load("weak.keras"), None),
        load_patched=functools.partial(load, "patched.keras"),
    )


def _read_results(path):
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(
            f"A demo's '{path.name}' holds JSON. Received: '{path}', which "
            f"holds none: {error}. Run `kmod demo` again."
        ) from error
    if not isinstance(results, dict) or "sizes" not in results:
        raise ArtifactError(
            f"A demo's '{path.name}' holds what it measured. Received: "
            f"'{path}' without sizes. Run `kmod demo` again."
        )
    return results


def _bytes_below(path):
    return sum(
        each.stat().st_size for each in path.rglob("*") if each.is_file()
    )
