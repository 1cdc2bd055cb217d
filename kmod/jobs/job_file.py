"""Job lists: YAML files that name sources to take apart, and what to make."""

import dataclasses
import os
import posixpath
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import Literal

from kmod.files import slug
from kmod.files.plain_yaml import Document
from kmod.files.plain_yaml import Fault
from kmod.files.plain_yaml import KeyPath
from kmod.files.plain_yaml import shorten
from kmod.spec.documents import parse_document
from kmod.spec.documents import read_content
from kmod.spec.documents import text_faults
from kmod.spec.faults import InvalidSpecError
from kmod.spec.faults import schema_faults
from kmod.spec.licences import LicenseSyntaxError
from kmod.spec.licences import parse_license

SCHEMA = "jobs/jobs.schema.json"
# Where what is made goes, by the key of its folder.
_OUTPUTS = {"out": ("sources",), "models": ("patches", "choices")}
# What names one of them there.
_NAMES = {"out": "store", "models": "name"}


@dataclasses.dataclass(frozen=True)
class Job:
    """One source to take apart.

    Attributes:
        store: Name of its store.
        out: Where the store will be.
        model: Absolute path of the source model.
        data: Name of its data set, or the absolute path of its images.
        options: Options of `kmod modularize`, names as in Python. `negatives`
            is as that command takes it.
        shards: Number of tasks that cut its modules; 1 if one task does
            everything.
        place: Line and column of the source in the list.
    """

    store: str
    out: Path
    model: Path
    data: str
    options: Mapping[str, Any]
    shards: int
    place: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ModelJob:
    """A model to make of modules that are there or that the list makes.

    Attributes:
        name: Name of the model.
        kind: `patch` or `choose`, the command that makes it.
        out: Where the model will be.
        model: Absolute path of the model to patch, if it is a patch.
        stores: Absolute paths of the stores.
        data: As of a `Job`; `None` if modules are chosen without images.
        options: Options of the command, names as in Python.
        place: Line and column in the list.
    """

    name: str
    kind: Literal["patch", "choose"]
    out: Path
    model: Path | None
    stores: tuple[Path, ...]
    data: str | None
    options: Mapping[str, Any]
    place: tuple[int, int]


def load_jobs(path: str | Path) -> tuple[Job | ModelJob, ...]:
    """Loads a job list.

    Args:
        path: YAML file. Its relative paths are resolved against its folder.

    Returns:
        The jobs in their order, sources first.

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidSpecError: If the list is not valid. The message has one line
            for every fault, each beginning with `file:line:column:`.
    """
    content = read_content(path, "a job list")
    document = parse_document(content, path, "a job list", _is_text)
    faults = [
        *document.faults,
        *text_faults(document),
        *schema_faults(document, SCHEMA, "the job list"),
    ]
    if not faults:
        faults += _rule_faults(document)
    if faults:
        raise InvalidSpecError(path, faults)
    folder = Path(os.path.realpath(path)).parent
    return tuple(_jobs(document, folder))


def _is_text(path: KeyPath, value: Any) -> bool:
    """Class names and names of stores are taken as written: `no`, `010`."""
    is_class = path[-2:-1] in (("classes",), ("target_classes",))
    return is_class or path[-1:] in (("store",), ("name",))


def _rule_faults(document: Document) -> Iterator[Fault]:
    data = document.data
    for key, kinds in _OUTPUTS.items():
        given = [kind for kind in kinds if kind in data]
        if given and key not in data:
            yield Fault(
                *document.keys[(given[0],)],
                f"`{given[0]}` need a folder to be made in. Give the list "
                f"`{key}`.",
            )
    if not any(kind in data for kinds in _OUTPUTS.values() for kind in kinds):
        yield Fault(
            *document.values[()],
            "a job list has `sources`, `patches` or `choices`. Received: none "
            "of them.",
        )
    if {"out", "models"} <= data.keys():
        out, models = (posixpath.normpath(data[key]) for key in _OUTPUTS)
        if out == models:
            yield Fault(
                *document.values[("models",)],
                "stores and models are made in folders of their own. "
                f"Received: {shorten(models)} for both. Give another folder.",
            )
    yield from _source_faults(document)
    for kind in ("sources", "patches"):
        for index, row in enumerate(data.get(kind, ())):
            if "data" not in row and "data" not in data:
                yield Fault(
                    *document.values[(kind, index)],
                    f"`{kind}[{index}]` has no images. Give it `data`, or the "
                    "whole list.",
                )
    for key, kinds in _OUTPUTS.items():
        yield from _repeated_names(document, kinds, _NAMES[key])


def _repeated_names(document, kinds, key):
    """Finds two of one name, which may come from that of a model's file."""
    names = {}
    for kind in kinds:
        for index, row in enumerate(document.data.get(kind, ())):
            path, name = (kind, index), _name(row, key)
            first = names.setdefault(name.lower(), path)
            if first != path:
                yield Fault(
                    *document.values[(*path, key if key in row else "model")],
                    f"`{first[0]}[{first[1]}]` makes {shorten(name)}, too. "
                    f"Give one of them another `{key}`.",
                )


def _source_faults(document):
    data = document.data
    for index, source in enumerate(data.get("sources", ())):
        path = ("sources", index)
        options = _options(data, source)
        if options.get("frozen") and "refine_epochs" in options:
            yield Fault(
                *document.values[path],
                "modules that are `frozen` are not refined. Leave "
                "`refine_epochs` out, or `frozen`.",
            )
        if source.get("shards", 1) > 1 and not options.get("frozen"):
            yield Fault(
                *document.values[(*path, "shards")],
                "`shards` cut modules apart, and modules that are refined "
                "learn together. Give the option `frozen: true`, and refine "
                "the store with `kmod refine`.",
            )
    for start in (), ("sources", ...):
        for path, text in document.find_texts(*start, "options", "license"):
            yield from _license_faults(document, path, text)


def _license_faults(document, path, text):
    try:
        parse_license(text)
    except LicenseSyntaxError as error:
        yield Fault(
            *document.values[path],
            "a licence is an SPDX expression, such as Apache-2.0. Received: "
            f"{shorten(text)}, {error}.",
        )


def _jobs(document, folder):
    data = document.data
    for index, source in enumerate(data.get("sources", ())):
        out = _resolve(data["out"], folder)
        options = _options(data, source)
        if "negatives" in options:
            options["negatives"] = _data(options["negatives"], folder)
        name = _name(source, "store")
        yield Job(
            store=name,
            out=out / name,
            model=_resolve(source["model"], folder),
            data=_data(source.get("data") or data["data"], folder),
            options=options,
            shards=int(source.get("shards", 1)),
            place=document.values[("sources", index)],
        )
    for kind, command in (("patches", "patch"), ("choices", "choose")):
        for index, row in enumerate(data.get(kind, ())):
            place = document.values[(kind, index)]
            yield _model_job(data, row, command, folder, place)


def _model_job(data, row, kind, folder, place):
    options = dict(row.get("options", {}))
    if kind == "choose":
        options["class_names"] = row["classes"]
    images = row.get("data") or data.get("data")
    name = _name(row, "name")
    return ModelJob(
        name=name,
        kind=kind,
        out=_resolve(data["models"], folder) / name,
        model=_resolve(row["model"], folder) if kind == "patch" else None,
        stores=tuple(
            _resolve(path, folder)
            for path in row["donors" if kind == "patch" else "stores"]
        ),
        data=images and _data({**images, "split": "validation"}, folder),
        options=options,
        place=place,
    )


def _options(data, source):
    return {**data.get("options", {}), **source.get("options", {})}


def _name(row, key):
    return row.get(key) or slug(Path(row["model"]).stem)


def _data(data, folder):
    name = data.get("name") or str(_resolve(data["path"], folder))
    return f"{name}:{data['split']}" if "split" in data else name


def _resolve(relative, folder):
    return Path(os.path.realpath(folder / relative))
