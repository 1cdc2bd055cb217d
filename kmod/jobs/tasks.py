"""Tasks: what a job list comes down to, and which of them are done.

A task is known by what it is made of: the model's file, the stores, the data,
the options and, if it cuts some of the classes only, which. Its result says so
itself.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

from kmod.composition.composition_manifest import check_composition
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.files import check_output
from kmod.files import data_digest
from kmod.files import file_digest
from kmod.files import list_files
from kmod.files import read_files
from kmod.files import remove_leftovers
from kmod.files import unlisted
from kmod.files.manifest import list_sealed
from kmod.files.run_directory import discard_run
from kmod.jobs.job_file import Job
from kmod.jobs.job_file import ModelJob
from kmod.modules.manifest import STORE_FILE
from kmod.modules.manifest import read_store_manifest
from kmod.modules.module_store import list_store
from kmod.modules.module_store import load_store

MASKS_FILE = "masks.yaml"
MODEL_FILE = "modular.keras"
_BETWEEN = re.compile(r"[0-9a-f]{12}\.(run|masks|part-\d+)")


@dataclasses.dataclass(frozen=True)
class Task:
    """A piece of work for one process. All its values are plain.

    Attributes:
        name: Name of the store or model, and what is done for it.
        kind: `store` makes a whole store. With shards, `masks` trains, each
            `part` cuts some of the modules, and `merge` puts them together.
            `patch` and `choose` make models of stores.
        store: Name of the store or model.
        out: Where the result will be.
        digest: Digest of what the result is made of.
        model: The source model, or that to patch; empty for `choose`.
        data: Its data, as the command takes it; `None` for none.
        options: Options of the command by their names in Python.
        part: Number of the part and of all parts.
        final: Where the store of all classes, or the model, will be.
        needs: Names of the tasks whose results it reads, and where these are.
        stores: The stores that a model is made of.
        overwrite: Whether what is at `final` may be replaced.
    """

    name: str
    kind: Literal["store", "masks", "part", "merge", "patch", "choose"]
    store: str
    out: str
    digest: str
    model: str
    data: str | None
    options: Mapping[str, Any]
    final: str
    part: tuple[int, int] = (0, 1)
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stores: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def run_directory(self) -> Path:
        """Where training is kept until the result is there."""
        return _between(Path(self.final), self.digest, "run")


def tasks_of(job: Job, overwrite: bool = False) -> tuple[Task, ...]:
    """Returns the tasks of a job, those that others need first.

    Args:
        job: The job.
        overwrite: Whether a store of something else may be replaced.

    Returns:
        The tasks. The last one makes the store.

    Raises:
        ArtifactError: If the model or a file of its data is missing.
    """
    recipe = {
        "data": _data_identity(job.data),
        "options": {
            **job.options,
            "negatives": _data_identity(job.options.get("negatives")),
        },
    }
    source = _source_digest(job.model)
    digest = data_digest({"source": source, "recipe": data_digest(recipe)})
    whole = Task(
        name=job.store,
        kind="store",
        store=job.store,
        out=str(job.out),
        digest=digest,
        model=str(job.model),
        data=job.data,
        options=dict(job.options),
        final=str(job.out),
        overwrite=overwrite,
    )
    if job.shards == 1:
        return (whole,)
    masks = dataclasses.replace(
        whole,
        name=f"{job.store} masks",
        kind="masks",
        out=str(_between(job.out, digest, "masks")),
        part=(0, job.shards),
    )
    parts = tuple(
        dataclasses.replace(
            whole,
            name=f"{job.store} {number + 1}/{job.shards}",
            kind="part",
            out=str(_between(job.out, digest, f"part-{number}")),
            digest=data_digest([digest, number, job.shards]),
            part=(number, job.shards),
            needs={masks.name: masks.out},
        )
        for number in range(job.shards)
    )
    needs = {task.name: task.out for task in (masks, *parts)}
    merge = dataclasses.replace(whole, kind="merge", needs=needs)
    return masks, *parts, merge


def model_task(
    job: ModelJob, makers: Mapping[str, Task], overwrite: bool = False
) -> Task:
    """Returns the task that makes a model.

    Args:
        job: The job.
        makers: The tasks that make stores of the same list, by their paths.
        overwrite: As of `tasks_of`.

    Raises:
        ArtifactError: If the model, a store that the list does not make, or a
            file of its data is missing.
    """
    stores = tuple(map(str, job.stores))
    made = [makers[path] for path in stores if path in makers]
    parts = {
        "kind": job.kind,
        "model": job.model and _source_digest(job.model),
        "stores": [
            makers[path].digest if path in makers else _store_digest(path)
            for path in stores
        ],
        "data": _data_identity(job.data),
        "options": job.options,
    }
    return Task(
        name=f"{job.kind} {job.name}",
        kind=job.kind,
        store=job.name,
        out=str(job.out),
        digest=data_digest(parts),
        model=str(job.model or ""),
        data=job.data,
        options=dict(job.options),
        final=str(job.out),
        needs={task.name: task.out for task in made},
        stores=stores,
        overwrite=overwrite,
    )


def is_done(task: Task) -> bool:
    """Tells whether a task's result is there, whole and of this task.

    Raises:
        IntegrityError: If what is there is not as it was written.
    """
    if not Path(task.out).exists():
        return False
    path = Path(task.out)
    if task.kind == "masks":
        return not unlisted(list_files(path), list_masks(path))
    is_model = task.kind in ("patch", "choose")
    try:
        manifest = (check_composition if is_model else _whole_store)(path)
    except IntegrityError:
        raise
    except ArtifactError:  # Something else is there.
        return False
    return manifest.arguments.get("task") == task.digest


def _whole_store(path):
    return load_store(path).manifest


def list_masks(path: Path) -> Mapping[str, Any]:
    """Lists the files of trained masks, as `check_output` asks for them."""
    return list_sealed(path / MASKS_FILE)


def clear(job: Job) -> None:
    """Removes what led to a job's store, which is there now.

    A file that kmod did not write stays, and what holds it. What a killed
    worker of this host left half-written goes, too.
    """
    remove_leftovers(job.out)
    for path in sorted(job.out.parent.glob(f".{job.store}.*")):
        match = _BETWEEN.fullmatch(path.name.removeprefix(f".{job.store}."))
        if match is None:
            continue
        if match[1] == "run":
            discard_run(path)
            continue
        check_output(
            path, True, list_masks if match[1] == "masks" else list_store
        )
        remove_leftovers(path)
        shutil.rmtree(path)


def parts_of(task: Task) -> Sequence[Path]:
    """Returns where the parts are that a task merges."""
    return [Path(out) for out in task.needs.values()][1:]


def _between(out, digest, what):
    digest = digest.removeprefix("sha256:")[:12]
    return out.with_name(f".{out.name}.{digest}.{what}")


def _source_digest(path):
    if not path.exists():
        raise ArtifactError(
            f"A source model must be there. Received: '{path}', which does "
            "not exist. Look at the path, which starts in the list's folder."
        )
    if path.is_dir():  # A preset of KerasHub.
        return data_digest(read_files(path))
    return file_digest(path)


def _store_digest(path):
    read_store_manifest(Path(path))  # A store is there.
    return file_digest(Path(path) / STORE_FILE)


def _data_identity(data):
    """What tells data from others; of a folder the files' names and sizes."""
    if data is None:
        return None
    path = Path(data)
    if not path.is_absolute():
        return data
    split = ""
    if not path.exists() and ":" in path.name:
        name, _, split = data.rpartition(":")
        path = Path(name)
    if path.is_file():
        return [split, file_digest(path)]
    if not path.is_dir():
        raise ArtifactError(
            f"Images must be there. Received: '{data}', which does not "
            "exist. Look at the path, which starts in the list's folder."
        )
    return [split, _sizes(path)]


def _sizes(folder):
    """Returns the sizes of the files in a folder, links followed."""
    sizes = {}
    for root, folders, files in os.walk(folder, followlinks=True):
        own = Path(os.path.realpath(root))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and Path(os.path.realpath(own / name)) not in (own, *own.parents)
        ]
        for name in files:
            path = Path(root, name)
            if not name.startswith(".") and path.exists():
                relative = path.relative_to(folder).as_posix()
                sizes[relative] = path.stat().st_size
    return sizes
