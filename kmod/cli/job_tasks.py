"""Does the tasks of `kmod jobs`, in a worker."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from kmod.cli.starting import collect_less_often
from kmod.cli.starting import leave_out_imports
from kmod.cli.store_making import cut_given
from kmod.cli.store_making import find_masks
from kmod.cli.store_making import read_given
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import KmodError
from kmod.errors import UsageError
from kmod.files.run_directory import RUN_FILE
from kmod.jobs.tasks import MASKS_FILE
from kmod.jobs.tasks import MODEL_FILE
from kmod.jobs.tasks import Task
from kmod.jobs.tasks import is_done
from kmod.jobs.tasks import list_masks
from kmod.jobs.tasks import parts_of

if TYPE_CHECKING:
    from kmod.modules.module_store import ModuleStore

ARGUMENTS = {"for": "purpose"}


def arguments_of(task: Task, data_dir: str | None) -> argparse.Namespace:
    """Returns the arguments that the command would have.

    Args:
        task: The task.
        data_dir: As `--data-dir` takes it.
    """
    from kmod.cli.main import build_parser

    args = build_parser().parse_args(_command(task))
    for name, value in task.options.items():
        setattr(args, ARGUMENTS.get(name, name), value)
    args.data_dir = data_dir
    args.arguments = {"task": task.digest}
    return args


def _command(task):
    data = [] if task.data is None else ["--data", task.data]
    if task.kind == "choose":
        stores = [word for path in task.stores for word in ("--store", path)]
        spec = f"{task.out}.yaml"
        out = ["--out", spec, "--compose", task.out, "--class", ""]
        return ["choose", *stores, *data, *out]
    out = ["--out", task.out, task.model]
    if task.kind == "patch":
        donors = [word for path in task.stores for word in ("--donor", path)]
        return ["patch", *donors, *data, *out]
    return ["modularize", *data, *out]


class TaskRunner:
    """Does tasks; it is sent to workers with them.

    Args:
        data_dir: As `--data-dir` takes it.
    """

    def __init__(self, data_dir: str | None):
        self.data_dir = data_dir

    def __call__(self, task: Task) -> dict[str, Any]:
        """Does a task and returns its figures, or its `fault`.

        Wrong usage and a failed check are final: another try would find the
        same.
        """
        collect_less_often()
        leave_out_imports()
        import keras

        from kmod.cli.main import explain
        from kmod.cli.main import in_options
        from kmod.files import claimed
        from kmod.files.custom_layers import custom_layers_scope

        keras.utils.clear_session()  # A worker does many tasks.
        args = arguments_of(task, self.data_dir)
        try:
            # Another call on the same list may be at it.
            Path(task.out).parent.mkdir(parents=True, exist_ok=True)
            with custom_layers_scope(args.custom_layers), claimed(task.out):
                return DOING[task.kind](task, args)
        except (KmodError, OSError) as error:
            if isinstance(error, KmodError) and is_done(task):
                return {}  # Another worker, given up for dead, did it.
            _, message = explain(error)
            return {
                "fault": in_options(message, args.options).removeprefix(
                    "kmod: "
                ),
                "is_final": isinstance(error, (UsageError, CheckError)),
            }


def _make_store(task, args):
    from kmod.modules.module_store import save_store

    given, modular, arguments = _trained(task, args)
    content = cut_given(args, given, modular, arguments, Path(task.final))
    return figures_of(save_store(task.out, content, task.overwrite))


def _find_masks(task, args):
    import numpy as np

    from kmod.files import atomic_directory
    from kmod.files import file_record
    from kmod.files.manifest import write_sealed

    given, modular, arguments = _trained(task, args)
    images, labels = given.validation
    answers = modular.class_log_odds(images).argmax(1)
    with atomic_directory(task.out, True, list_masks) as temporary:
        modular.save(temporary / MODEL_FILE)
        write_sealed(
            temporary / MASKS_FILE,
            {
                "arguments": arguments,
                "accuracy": float(np.mean(answers == labels)),
                "files": {MODEL_FILE: file_record(temporary / MODEL_FILE)},
            },
        )
    return {}


def _trained(task, args):
    from kmod.files import check_output
    from kmod.files.run_directory import run_digest
    from kmod.modules.module_store import list_store

    check_output(task.final, task.overwrite, list_store)
    run_directory = task.run_directory
    given = read_given(args)
    _, num_parts = task.part
    num_classes = len(given.data.class_names)
    if num_parts > num_classes:
        raise UsageError(
            "`shards` must be at most the number of classes, "
            f"{num_classes}. Received: shards={num_parts}"
        )
    try:
        modular, arguments = find_masks(args, given, run_directory, True)
    except (UsageError, ArtifactError):
        if not (run_directory / RUN_FILE).exists():
            raise
        # It is damaged, or of other versions of Keras and so on.
        modular, arguments = find_masks(args, given, run_directory, False)
    arguments |= {"run": run_digest(run_directory), "task": task.digest}
    return given, modular, arguments


def _cut_part(task, args):
    import kmod.modular.modular_model  # noqa: F401, it registers the class.
    from kmod.export.keras_file import load_keras_file
    from kmod.modules.module_store import save_store

    (masks,) = (Path(out) for out in task.needs.values())
    found = _read_masks(masks)
    modular = load_keras_file(
        masks / MODEL_FILE,
        recorded=found["files"][MODEL_FILE],
        allow_custom=True,
    )
    arguments = found["arguments"] | {"task": task.digest}
    number, count = task.part
    ends = [
        modular.num_classes * each // count for each in (number, number + 1)
    ]
    given = read_given(args)
    content = cut_given(
        args, given, modular, arguments, Path(task.final), range(*ends)
    )
    save_store(task.out, content)
    return {}


def _merge(task, args):
    from kmod.modules.merge import merge_parts
    from kmod.modules.module_store import load_store

    masks, *_ = task.needs.values()
    accuracy = _read_masks(Path(masks))["accuracy"]
    parts = [load_store(path) for path in parts_of(task)]
    store = merge_parts(parts, task.out, accuracy, task.digest, task.overwrite)
    return figures_of(store)


def _patch(task, args):
    from kmod.cli.patch import patch_given
    from kmod.composition.composition_manifest import list_composition
    from kmod.files import check_output

    check_output(task.out, task.overwrite, list_composition)
    args.overwrite = task.overwrite
    patch_given(args)
    return found_at(task)


def _choose(task, args):
    from kmod.cli.choose import choose_given
    from kmod.composition.composition_manifest import list_composition
    from kmod.files import check_output

    check_output(task.out, task.overwrite, list_composition)
    # A spec of ours is all that a call may have left that was cut short.
    args.overwrite = True
    choose_given(args)
    return found_at(task)


def _read_masks(path) -> Mapping[str, Any]:
    from kmod.files.plain_yaml import read_yaml

    list_masks(path)  # It is as it was written.
    return read_yaml(path / MASKS_FILE)


def figures_of(store: ModuleStore) -> dict[str, Any]:
    """Returns what the table of jobs says of a store."""
    before, after = (store.manifest.metrics[key] for key in ("before", "after"))
    return {
        "source_accuracy": before["accuracy"],
        "accuracy": after["accuracy"],
        "retention_rate": after["retention_rate"],
        "modules": len(store),
    }


def found_at(task: Task) -> dict[str, Any]:
    """Returns what the table of jobs says of a result that is there."""
    from kmod.composition.composition_manifest import read_composition_manifest
    from kmod.modules.module_store import load_store

    if task.kind not in ("patch", "choose"):
        return figures_of(load_store(task.out, verify=False))
    manifest = read_composition_manifest(task.out)
    measured = manifest.metrics.get("test", {}).get("overall", {})
    accuracy = measured.get("accuracy", {})
    return {
        "source_accuracy": accuracy.get("before"),
        "accuracy": accuracy.get("after"),
        "modules": len(manifest.sources),
    }


DOING = {
    "store": _make_store,
    "masks": _find_masks,
    "part": _cut_part,
    "merge": _merge,
    "patch": _patch,
    "choose": _choose,
}
