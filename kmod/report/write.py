"""Writes the report of what kmod made, as one page."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from kmod.composition.labelled_images import reader_of_manifest
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.errors import UsageError
from kmod.files import check_output_file
from kmod.files.custom_layers import custom_layers_scope
from kmod.modules.module_store import ModuleStore
from kmod.report.demo_sections import demo_lead
from kmod.report.demo_sections import demo_sections
from kmod.report.demo_sections import demo_tiles
from kmod.report.made_from import composition_section
from kmod.report.made_from import kernel_section
from kmod.report.made_from import lead
from kmod.report.made_from import mast_masks
from kmod.report.made_from import provenance_section
from kmod.report.made_from import reproduce_section
from kmod.report.made_from import summary_tiles
from kmod.report.measured import image_sections
from kmod.report.measured import measure
from kmod.report.measured import measured_tiles
from kmod.report.page import write_page
from kmod.report.parts import Page
from kmod.report.parts import Section
from kmod.report.parts import Tiles
from kmod.report.subject import Subject
from kmod.report.subject import open_demo
from kmod.report.subject import open_subject
from kmod.report.understood import understanding_sections
from kmod.spec.model import IN_MEMORY
from kmod.spec.model import DataRef

if TYPE_CHECKING:
    import keras

IMAGES = "the images given"


def write_report(
    thing: str | Path | ModuleStore | keras.Model,
    path: str | Path,
    *,
    data: Any = None,
    data_dir: str | Path | None = None,
    custom_layers: Sequence[type] = (),
    overwrite: bool = False,
) -> None:
    """Writes a page about a store, a model of kmod, a demo or a spec.

    The page is one HTML file that fetches nothing: what it is of, how large
    that is, which class comes from which source, the kernels that modules
    keep, where it is from and how it is made again. On images, figures of
    every class with intervals, confusions, calibration, its worst answers,
    how its classes depend on each other, what its modules look at and, if it
    is patched, what the patch changed.

    Args:
        thing: A `ModuleStore`, a model that kmod made or loaded, or the path
            of a store, of a composed, patched, distilled or slim model, of a
            demo, or of a spec, which is composed.
        path: File to write.
        data: Images to measure on: `(images, labels)`, `LabelledImages`, a
            batched data set, or the test images of an `ImageData`. Labels are
            indices of the model's classes, unless the data have class names.
            Defaults to none.
        data_dir: Directory of the prepared data sets that a spec names.
        custom_layers: Registered layer classes of your own that models may
            hold.
        overwrite: Whether a report may be replaced that nobody changed.

    Raises:
        ArtifactError: If `thing` is not there, or images do not fit it.
        IntegrityError: If it is not as it was written.
        SpecError: If it is a spec that is not valid.
        UsageError: If it is something else, or `path` can not be written.

    Example:

    >>> store = kmod.load_store("modules/digits")
    >>> kmod.write_report(store, "report.html", data=data.test)
    """
    check_output_file(path, overwrite)
    with custom_layers_scope(custom_layers):
        subject = open_subject(thing, data_dir)
        images = None
        if data is not None:
            images = read_images(subject, data, "test")
        write_page(report_page(subject, images), path, overwrite)


def write_demo_report(
    directory: str | Path, results: Mapping[str, Any], data: ImageData
) -> None:
    """Writes `report.html` of a demo, measured on its test images.

    Args:
        directory: Directory of the demo.
        results: What its `results.json` holds.
        data: Its data set.
    """
    subject = open_demo(Path(directory), results)
    page = report_page(
        subject, read_images(subject, data, "test"), f"{data.name}:test"
    )
    write_page(page, Path(directory) / "report.html")


def read_images(subject: Subject, data: Any, split: str) -> LabelledImages:
    """Returns images as a subject takes and labels them.

    Args:
        subject: The subject.
        data: As `write_report` takes it.
        split: Which images of an `ImageData`.

    Raises:
        ArtifactError: If they can not be adapted, or none is of its classes.
        UsageError: If it has a single class, so that every answer is right.
    """
    if len(subject.manifest.class_names) == 1:
        raise UsageError(
            "`data` measure how classes are told apart. Received: a subject "
            f"of one class, {subject.manifest.class_names[0]!r}. Leave them "
            "out, or give a composition of several classes."
        )
    ref = DataRef(IN_MEMORY.name, split)
    reader = reader_of_manifest(subject.manifest, {ref: data})
    return reader.load(ref)


def report_page(
    subject: Subject, images: LabelledImages | None = None, name: str = IMAGES
) -> Page:
    """Works out what a report shows.

    Args:
        subject: What it is of.
        images: Images to measure on, from `read_images`. Defaults to none.
        name: What they are called.
    """
    measured = None if images is None else measure(subject, images, name)
    results = subject.results
    tiles = demo_tiles(results) if results else []
    tiles += [] if measured is None else measured_tiles(measured)
    tiles += summary_tiles(subject)
    sections = [
        Section("summary", "At a glance", [Tiles(tiles)]),
        composition_section(subject),
        kernel_section(subject),
    ]
    if measured is not None:
        sections += image_sections(subject, measured)
        sections += understanding_sections(subject, measured)
    if results:
        sections += demo_sections(results)
    sections += [provenance_section(subject), reproduce_section(subject)]
    title, text = subject.manifest.name, lead(subject)
    if results:
        title = f"{results['data']['name']}: a classifier taken apart"
        text = demo_lead(results)
    return Page(
        subject.kind,
        title,
        text,
        [section for section in sections if section is not None],
        mast_masks(subject),
    )
