"""Job lists: YAML files that name the sources to take apart."""

import dataclasses
import os
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def load_jobs(path: str | Path) -> tuple[Job, ...]:
    """Loads a job list.

    Args:
        path: YAML file. Its relative paths are resolved against its folder.

    Returns:
        The jobs in their order.

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
    return path[-1:] == ("store",) or path[-2:-1] == ("classes",)


def _rule_faults(document: Document) -> Iterator[Fault]:
    data, stores = document.data, {}
    for index, source in enumerate(data["sources"]):
        path = ("sources", index)
        options = _options(data, source)
        if "data" not in source and "data" not in data:
            yield Fault(
                *document.values[path],
                f"`sources[{index}]` has no images. Give it `data`, or the "
                "whole list.",
            )
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
        name = _store_name(source)
        first = stores.setdefault(name.lower(), index)
        if first != index:
            key = "store" if "store" in source else "model"
            yield Fault(
                *document.values[(*path, key)],
                f"`sources[{first}]` makes a store {shorten(name)}, too. Give "
                "one of them another `store`.",
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
    out = _resolve(data["out"], folder)
    for index, source in enumerate(data["sources"]):
        options = _options(data, source)
        if "negatives" in options:
            options["negatives"] = _data(options["negatives"], folder)
        name = _store_name(source)
        yield Job(
            store=name,
            out=out / name,
            model=_resolve(source["model"], folder),
            data=_data(source.get("data") or data["data"], folder),
            options=options,
            shards=int(source.get("shards", 1)),
            place=document.values[("sources", index)],
        )


def _options(data, source):
    return {**data.get("options", {}), **source.get("options", {})}


def _store_name(source):
    return source.get("store") or slug(Path(source["model"]).stem)


def _data(data, folder):
    name = data.get("name") or str(_resolve(data["path"], folder))
    return f"{name}:{data['split']}" if "split" in data else name


def _resolve(relative, folder):
    return Path(os.path.realpath(folder / relative))
