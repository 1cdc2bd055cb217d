"""Puts parts of a store, cut apart, together."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from kmod.errors import ArtifactError
from kmod.files import atomic_directory
from kmod.modules.decompose import sum_sizes
from kmod.modules.manifest import StoreManifest
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import list_store
from kmod.modules.module_store import load_store
from kmod.modules.module_store import seen_from
from kmod.modules.module_store import write_store_files


def merge_parts(
    parts: Sequence[ModuleStore],
    path: str | Path,
    accuracy: float,
    task: str,
    overwrite: bool = False,
) -> ModuleStore:
    """Saves the modules of all parts as one store, files as they are.

    Its content is that of a store that was cut at once.

    Args:
        parts: Stores of what `cut_modules` cut part by part, the first part
            first.
        path: Directory to make.
        accuracy: Accuracy of all modules together, 0 to 1, which no part
            knows.
        task: What the manifest says of the task.
        overwrite: Whether a store at `path` may be replaced.

    Raises:
        ArtifactError: If they are not all parts of one store.
        UsageError: If `path` can not be written.
    """
    manifest = _merged(parts, accuracy, task)
    with atomic_directory(path, overwrite, list_store) as temporary:
        for part in parts:
            for record in part.manifest.modules:
                directory = record.directory
                shutil.copytree(part.path / directory, temporary / directory)
        source = (parts[0].manifest.contract or {}).get("source")
        if source is not None:
            source = seen_from(path, parts[0].path / source)
        write_store_files(temporary, manifest, parts[0].familiarity, source)
    return load_store(path)


def _merged(parts, accuracy, task) -> StoreManifest:
    first = parts[0].manifest
    modules = [module for part in parts for module in part.manifest.modules]
    modules.sort(key=lambda module: module.class_index)
    names = tuple(module.class_name for module in modules)
    sources = {part.manifest.source.digest for part in parts}
    if names != first.class_names or len(sources) > 1:
        raise ArtifactError(
            "Parts of a store must hold one module for each class of one "
            f"source, {list(first.class_names)}. Received: {list(names)} of "
            f"{len(sources)} sources. Cut the parts again."
        )
    return dataclasses.replace(
        first,
        modules=tuple(modules),
        custom_layers=tuple(
            sorted({n for part in parts for n in part.manifest.custom_layers})
        ),
        arguments={
            **{k: v for k, v in first.arguments.items() if k != "part"},
            "task": task,
        },
        metrics={
            **first.metrics,
            "after": {**first.metrics["after"], "accuracy": accuracy},
            "stem": _stem(part.manifest.arguments["part"] for part in parts),
        },
    )


def _stem(parts):
    """Sums up the layers that are in the stems of all parts."""
    first, *others = [part["stem"] for part in parts]
    common = set(first).intersection(*others)
    return sum_sizes({name: first[name] for name in first if name in common})
