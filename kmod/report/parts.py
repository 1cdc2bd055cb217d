"""What a page is made of, as data: tiles, tables, heat maps, charts, pictures.

Parts say what is shown and hold text as it is; `page` says how, and escapes it.
Each names the macro of `templates/parts.html.j2` that draws it.
"""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import ClassVar
from typing import Union

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tile:
    """A large figure with a label.

    Attributes:
        figure: The figure, as it is written.
        label: What it is of.
        note: A line below, such as an interval.
    """

    figure: str
    label: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Figures beside each other."""

    macro: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than text.

    Attributes:
        text: What it says.
        value: Number that rows are sorted by; `None` where nothing is known.
        share: Length of a bar, 0 to 1; `None` for no bar.
        note: A smaller text behind it, such as an interval.
    """

    text: str
    value: float | None = None
    share: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose columns sort.

    Attributes:
        caption: What its rows are.
        columns: Heading of every column.
        rows: A text or `Cell` for each column.
    """

    macro: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMap:
    """A grid of shares, walked through by mouse and by keyboard.

    Attributes:
        caption: What it shows.
        rows: Name of each row.
        columns: Name of each column.
        row_label: What a row is, such as `"class"`.
        column_label: What a column is, such as `"layer"`.
        shares: Float array `(rows, columns)`, 0 to 1, not a number where
            there is nothing.
        texts: What every cell says. Defaults to its share in percent.
        notes: What is said of a cell that is pointed at. Defaults to its
            share in percent.
    """

    macro: ClassVar[str] = "heat_map"
    caption: str
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    shares: np.ndarray
    texts: Sequence[Sequence[str]] | None = None
    notes: Sequence[Sequence[str]] | None = None


@dataclasses.dataclass(frozen=True)
class Branch:
    """One row of a `Diagram`: what leads to one class.

    Attributes:
        class_name: The class.
        macs: Multiply-accumulates of the branch alone, 0 if it has no layers
            of its own.
        note: What it is, such as the module's name in its store.
        is_auxiliary: Whether it only helps others.
    """

    class_name: str
    macs: float = 0
    note: str = ""
    is_auxiliary: bool = False


@dataclasses.dataclass(frozen=True)
class Group:
    """A source in a `Diagram`, with what is taken from it.

    Attributes:
        name: Name of the source.
        note: What is known of it, in a few words.
        stem_name: What its branches have in common.
        stem_macs: Multiply-accumulates of that.
        branches: What leads from there to classes.
    """

    name: str
    note: str
    stem_name: str
    stem_macs: float
    branches: Sequence[Branch]


@dataclasses.dataclass(frozen=True)
class Diagram:
    """Which class comes from which source, to scale."""

    macro: ClassVar[str] = "diagram"
    caption: str
    groups: Sequence[Group]


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """How often values of two kinds are found.

    Attributes:
        caption: What it shows.
        label: What the values are.
        edges: Array of bin edges, one more than bins.
        series: Share of the values in each bin, by name of the kind. At most
            two.
        mark: A value to mark, with `mark_label`; `None` for none.
        mark_label: What the mark is.
    """

    macro: ClassVar[str] = "histogram"
    caption: str
    label: str
    edges: np.ndarray
    series: Mapping[str, np.ndarray]
    mark: float | None = None
    mark_label: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """The accuracy of answers, by their confidence.

    Attributes:
        caption: What it shows.
        edges: Array of bin edges, 0 to 1.
        accuracy: Float array, per bin: share of right answers, not a number
            in an empty bin.
        counts: Integer array, per bin: number of answers.
    """

    macro: ClassVar[str] = "reliability"
    caption: str
    edges: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Point:
    """A model in a `Frontier`.

    Attributes:
        name: What it is.
        cost: What it costs.
        share: How good it is, 0 to 1.
        interval: Lower and upper end of that.
        is_plain: Whether it is a plain way, drawn as a square.
        is_chosen: Whether it was chosen.
        is_best: Whether none beats it that costs no more.
    """

    name: str
    cost: float
    share: float
    interval: tuple[float, float]
    is_plain: bool = False
    is_chosen: bool = False
    is_best: bool = False


@dataclasses.dataclass(frozen=True)
class Frontier:
    """How good models are by what they cost.

    Attributes:
        label: What the cost is.
        points: The models.
    """

    label: str
    points: Sequence[Point]


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of the data and what was said of it.

    Attributes:
        source: The image as a data URI.
        title: What it shows.
        text: What was answered.
    """

    source: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images beside each other."""

    macro: ClassVar[str] = "pictures"
    caption: str
    pictures: Sequence[Picture]


@dataclasses.dataclass(frozen=True)
class MappedPicture:
    """An image with a map that lies on it.

    Attributes:
        picture: The image and what was said of it.
        overlay: The map as a data URI of an image that can be seen through.
    """

    picture: Picture
    overlay: str


@dataclasses.dataclass(frozen=True)
class GalleryRow:
    """One row of a `Gallery`.

    Attributes:
        name: What the row is of.
        note: What is known of it.
        groups: Images by what they have in common.
    """

    name: str
    note: str
    groups: Mapping[str, Sequence[MappedPicture]]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images with maps, row by row; the maps vanish where one points."""

    macro: ClassVar[str] = "gallery"
    caption: str
    rows: Sequence[GalleryRow]


@dataclasses.dataclass(frozen=True)
class Code:
    """Commands or the text of a file."""

    macro: ClassVar[str] = "code"
    caption: str
    text: str


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    macro: ClassVar[str] = "text"
    text: str


Part = Union[
    Tiles,
    Table,
    HeatMap,
    Diagram,
    Histogram,
    Reliability,
    Pictures,
    Gallery,
    Code,
    Text,
]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page with a heading.

    Attributes:
        key: Its anchor: letters and hyphens, never a user's text.
        title: The heading.
        parts: What stands below it.
    """

    key: str
    title: str
    parts: Sequence[Part]


@dataclasses.dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        kind: What the page is of, such as `"module store"`.
        title: Its name.
        lead: What it is, in a sentence.
        sections: Its sections.
        masks: For a few classes a 0 or 1 for kernels, for the masthead.
    """

    kind: str
    title: str
    lead: str
    sections: Sequence[Section]
    masks: Sequence[Sequence[int]] = ()


def number(value: float | None) -> Cell:
    """Returns a cell with a whole number, or a dash where it is not known."""
    if value is None:
        return Cell("–")
    return Cell(f"{value:,.0f}", float(value))


def large(value: float) -> str:
    """Writes a large number in three digits, such as `12.3 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # What rounds up to the unit is written in it.
        if value >= 0.9995 * size:
            scaled = value / size
            digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:.0f}"


def in_bytes(value: float) -> str:
    """Writes a number of bytes, such as `1.2 MiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 99.5 else 1}f} {unit}"
    return f"{value:.0f} bytes"


def large_cell(value: float | None) -> Cell:
    """Returns a cell with a large number, or a dash."""
    return Cell("–") if value is None else Cell(large(value), float(value))


def percent(share: float) -> str:
    """Writes a share from 0 to 1 in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def share(value: float | None) -> Cell:
    """Returns a cell with a share in percent, and a bar."""
    if value is None:
        return Cell("–")
    return Cell(percent(value), value, share=min(max(value, 0.0), 1.0))


def figure(
    value: float | None, interval: tuple[float, float] | None = None
) -> Cell:
    """Returns a cell with a figure from 0 to 1, or a dash.

    Args:
        value: The figure; `None` where nothing was measured.
        interval: Its lower and upper end.
    """
    if value is None:
        return Cell("–")
    note = "" if interval is None else span(interval)
    return Cell(f"{value:.3f}", float(value), note=note)


def span(interval: tuple[float, float]) -> str:
    """Writes an interval of figures from 0 to 1."""
    low, high = interval
    return f"{low:.3f} to {high:.3f}"
