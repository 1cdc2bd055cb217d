"""Locks: what exactly a spec was composed from, and whether it still is."""

from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmod.composition.plan import CompositionPlan
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.files import atomic_write
from kmod.files import file_digest
from kmod.files.manifest import installed_versions
from kmod.files.plain_yaml import read_yaml
from kmod.files.plain_yaml import to_yaml

VERSION = 2
_COMMENT = "# Written by `kmod lock`: what the spec beside it is made from.\n"


def lock_path(spec_path: str | Path) -> Path:
    """Returns where a spec is locked: `pets.lock.yaml` beside `pets.yaml`."""
    spec_path = Path(spec_path)
    return spec_path.with_name(f"{spec_path.stem}.lock.yaml")


def lock_data(planned: CompositionPlan) -> dict[str, Any]:
    """Returns the lock of a plan as plain data.

    No path is in it, so it holds wherever the spec and its stores are moved.

    Args:
        planned: The plan.

    Returns:
        Dict of the digests of the `stores` with all their files, of the
        content of their `modules` that are used, of the `prior` of classes, of
        a patch spec's `base`, and of the versions `created_by`.
    """
    data = {"version": VERSION, "stores": {}}
    for name, store in planned.stores.items():
        modules = {
            module.ref.class_name: module.content
            for module in planned.modules
            if module.ref.store == name
        }
        data["stores"][name] = {"digest": store.digest, "modules": modules}
    if planned.prior is not None:
        data["prior"] = planned.prior
    if planned.spec.base is not None:
        data["base"] = {"digest": file_digest(planned.spec.base.path)}
    data["created_by"] = installed_versions()
    return data


def write_lock(
    planned: CompositionPlan, path: str | Path | None = None
) -> Path:
    """Writes the lock of a plan.

    Args:
        planned: The plan.
        path: File to write. Defaults to the spec's `lock_path`.

    Returns:
        The file.

    Raises:
        IntegrityError: If a store does not hold the files that it names.
        UsageError: If there is a file at `path` that is no lock.
    """
    path = Path(path or lock_path(planned.spec.path))
    if path.exists() and not path.read_bytes().startswith(_COMMENT.encode()):
        raise UsageError(
            "Only a lock can be replaced by a lock. Received: "
            f"'{path}', which `kmod lock` did not write. Rename the spec, or "
            "move that file."
        )
    _verify(planned)
    atomic_write(path, _COMMENT + to_yaml(lock_data(planned)))
    return path


def check_lock(planned: CompositionPlan) -> None:
    """Checks that a spec is still made from what its lock names.

    Every file of the stores is compared, before any is loaded.

    Args:
        planned: The plan.

    Raises:
        CheckError: If there is no lock or one of another version, or if
            anything differs from it.
        IntegrityError: If the lock is no file that `write_lock` wrote, or a
            store does not hold the files that it names.
    """
    path = lock_path(planned.spec.path)
    if not path.is_file():
        raise CheckError(
            "A locked spec has a lock beside it. Received: no file "
            f"'{path}'. Write it with `kmod lock {planned.spec.path.name}`."
        )
    data = read_yaml(path)
    if isinstance(data, Mapping) and data.get("version") == 1:
        raise CheckError(
            f"A lock must be of version {VERSION}, which covers every file of "
            f"a store. Received: version=1 in '{path}', which covers no "
            "SavedModel. Check the stores with `kmod test`, then write the "
            f"lock again with `kmod lock {planned.spec.path.name}`."
        )
    locked = dict(_flat(data))
    present = dict(_flat(lock_data(planned)))
    drifted = [
        f"{key} is {present.get(key, 'not used')}, "
        f"locked as {locked.get(key, 'not used')}"
        for key in {**locked, **present}
        if locked.get(key) != present.get(key)
    ]
    if drifted:
        raise CheckError(
            f"A locked spec is made from what '{path}' names. Received: "
            f"{'; '.join(drifted)}. Bring back what was locked, or accept the "
            f"change with `kmod lock {planned.spec.path.name}`."
        )
    _verify(planned)


def _verify(planned):
    for store in planned.stores.values():
        store.verify()


def _flat(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value of nested mappings by its dotted path."""
    if not isinstance(data, Mapping):
        yield path or "the lock", data
        return
    for key, value in data.items():
        yield from _flat(value, f"{path}.{key}" if path else key)
