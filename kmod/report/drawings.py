"""Draws diagrams and charts as shapes with coordinates, for inline SVG."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from kmod.report.parts import Diagram
from kmod.report.parts import Frontier
from kmod.report.parts import Histogram
from kmod.report.parts import Reliability
from kmod.report.parts import large
from kmod.report.parts import percent

WIDTH = 920
ROW = 24
BAR = 14
NAMES = 190  # Room for a source's name, left of its stem.
LABELS = 200  # Room for a class's name, right of its branch.
FAN = 56  # Room for the lines from a stem to its branches.
LEAST = 2  # What is there is seen.
CHARACTERS = 24
SEEN = 24  # Rows.


@dataclasses.dataclass(frozen=True)
class Shape:
    """An element of SVG.

    Attributes:
        tag: Such as `"rect"`.
        attributes: Its attributes; `class` gives it its colour.
        text: What it says, of a `text`.
        title: What is said of it when it is pointed at.
        note: A smaller text behind that of a `text`.
    """

    tag: str
    attributes: Mapping[str, Any]
    text: str = ""
    title: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Shapes on a sheet of a size."""

    width: float
    height: float
    shapes: Sequence[Shape]


def draw_diagram(diagram: Diagram) -> Drawing:
    """Draws sources, what their branches share, and branches, to scale.

    Lengths of bars are multiply-accumulates, on one scale.
    """
    groups = diagram.groups
    longest_stem = max((group.stem_macs for group in groups), default=0)
    longest_branch = max(
        (branch.macs for group in groups for branch in group.branches),
        default=0,
    )
    room = WIDTH - NAMES - FAN - LABELS
    scale = room / max(longest_stem + longest_branch, 1)
    fan_end = NAMES + scale * longest_stem + FAN
    shapes, top = [], 30.0
    for group in groups:
        drawn, height = _group(group, top, scale, fan_end)
        shapes += drawn
        top += height + 22
    shapes += _scale_bar(scale, top)
    return Drawing(WIDTH, top + 30, shapes)


def _group(group, top, scale, fan_end):
    rows = max(len(group.branches), 2)
    height = rows * ROW
    # Of many branches the first are seen at once, and the stem with them.
    middle = top + min(rows, SEEN) * ROW / 2
    stem_end = NAMES + max(scale * group.stem_macs, LEAST)
    shapes = [
        _text(0, middle - 4, _short(group.name), "svg-name", title=group.name),
        _text(0, middle + 12, _short(group.note, 30), "svg-note", group.note),
    ]
    stem = f"{group.stem_name}: {large(group.stem_macs)} MACs"
    first = top + (rows - len(group.branches)) * ROW / 2
    for number, branch in enumerate(group.branches):
        y = first + (number + 0.5) * ROW
        shapes += _branch(branch, y, middle, stem_end, fan_end, scale)
    if group.stem_macs:
        shapes.append(
            _rect(NAMES, middle - BAR, stem_end - NAMES, 2 * BAR, "svg-stem")
        )
        shapes[-1] = dataclasses.replace(shapes[-1], title=stem)
        shapes.append(_text(NAMES, middle - BAR - 6, stem, "svg-note"))
    return shapes, height


def _branch(branch, y, middle, stem_end, fan_end, scale):
    bend = (stem_end + fan_end) / 2
    kind = "svg-line svg-auxiliary" if branch.is_auxiliary else "svg-line"
    path = f"M{stem_end:.1f} {middle:.1f}C{bend:.1f} {middle:.1f} "
    path += f"{bend:.1f} {y:.1f} {fan_end:.1f} {y:.1f}"
    shapes = [Shape("path", {"d": path, "class": kind})]
    end = fan_end
    if branch.macs:
        length = max(scale * branch.macs, LEAST)
        kind = "svg-branch svg-auxiliary" if branch.is_auxiliary else ""
        said = f"{branch.class_name}: {large(branch.macs)} MACs"
        if branch.note:
            said += f", {branch.note}"
        bar = _rect(fan_end, y - BAR / 2, length, BAR, kind or "svg-branch")
        shapes.append(dataclasses.replace(bar, title=said))
        end += length
    details = [large(branch.macs)] if branch.macs else []
    details += [branch.note] if branch.note else []
    name = branch.class_name
    label = _text(end + 8, y + 4, _short(name), "svg-class", name)
    note = _short(" · ".join(details), 28)
    shapes.append(dataclasses.replace(label, note=note))
    return shapes


def _scale_bar(scale, y):
    """Draws what a length means: a round number of operations."""
    most = 160 / scale
    unit = 10 ** math.floor(math.log10(most))
    unit *= next(factor for factor in (5, 2, 1) if factor * unit <= most)
    end = NAMES + unit * scale
    path = f"M{NAMES} {y}v8M{NAMES} {y + 4}H{end:.1f}M{end:.1f} {y}v8"
    return [
        Shape("path", {"d": path, "class": "svg-axis"}),
        _text(end + 8, y + 8, f"{large(unit)} MACs", "svg-note"),
    ]


CHART_WIDTH, CHART_HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 46
KEY, KEY_ROW = 50, 18  # Characters and height of a line below a chart.
NEAR = 6  # What is nearer is one place.


def draw_histogram(chart: Histogram) -> Drawing:
    """Draws shares in bins; the first kind filled, the second hatched."""
    highest = max((float(np.max(s)) for s in chart.series.values()), default=0)
    highest = highest or 1.0
    low, high = float(chart.edges[0]), float(chart.edges[-1])

    def x_of(value):
        inside = (value - low) / (high - low)
        return LEFT + inside * (CHART_WIDTH - LEFT - RIGHT)

    def y_of(share):
        return CHART_HEIGHT - BOTTOM - share / highest * _inner_height()

    shapes = _axes([0, highest / 2, highest], y_of)
    for kind, (name, shares) in zip(("own", "other"), chart.series.items()):
        for start, end, each in zip(chart.edges, chart.edges[1:], shares):
            if each > 0:
                x, y = x_of(start), y_of(each)
                width, height = x_of(end) - x, y_of(0) - y
                bar = _rect(x, y, max(width - 1, 1), height, f"svg-{kind}")
                said = f"{name}: {percent(each)} from {start:.1f} to {end:.1f}"
                shapes.append(dataclasses.replace(bar, title=said))
    for value in (low, (low + high) / 2, high):
        shapes.append(
            _text(x_of(value), CHART_HEIGHT - 28, f"{value:.1f}", "svg-tick")
        )
    if chart.mark is not None and low <= chart.mark <= high:
        x = x_of(chart.mark)
        path = f"M{x:.1f} {TOP}V{y_of(0):.1f}"
        line = Shape("path", {"d": path, "class": "svg-mark"})
        shapes.append(dataclasses.replace(line, title=chart.mark_label))
    shapes.append(_axis_label(chart.label))
    return Drawing(CHART_WIDTH, CHART_HEIGHT, shapes)


def draw_reliability(chart: Reliability) -> Drawing:
    """Draws the accuracy of answers over their confidence."""

    def x_of(value):
        return LEFT + value * (CHART_WIDTH - LEFT - RIGHT)

    def y_of(value):
        return CHART_HEIGHT - BOTTOM - value * _inner_height()

    shapes = _axes([0, 0.25, 0.5, 0.75, 1], y_of)
    total = max(int(chart.counts.sum()), 1)
    bins = zip(chart.edges, chart.edges[1:], chart.accuracy, chart.counts)
    for start, end, accuracy, count in bins:
        if count:
            x, y = x_of(start), y_of(accuracy)
            bar = _rect(x + 1, y, x_of(end) - x - 2, y_of(0) - y, "svg-own")
            said = (
                f"Answers of {percent(start)} to {percent(end)}: {count} "
                f"({percent(count / total)} of all), {percent(accuracy)} right"
            )
            shapes.append(dataclasses.replace(bar, title=said))
    path = f"M{x_of(0)} {y_of(0)}L{x_of(1)} {y_of(1)}"
    shapes.append(Shape("path", {"d": path, "class": "svg-mark"}))
    for value in (0, 0.5, 1):
        shapes.append(
            _text(
                x_of(value), CHART_HEIGHT - 28, f"{100 * value:.0f}", "svg-tick"
            )
        )
    shapes.append(_axis_label("confidence in percent"))
    return Drawing(CHART_WIDTH, CHART_HEIGHT, shapes)


def draw_frontier(chart: Frontier) -> Drawing:
    """Draws models by cost and share, numbered, with a line below each.

    A step line joins those that none beats which costs no more; the chosen
    one has a ring.
    """
    ends = [end for point in chart.points for end in point.interval]
    low = math.floor(10 * min(ends)) / 10
    high = max(math.ceil(10 * max(ends)) / 10, low + 0.1)
    step = 0.05 if high - low < 0.25 else 0.1 if high - low < 0.65 else 0.2
    most = max(point.cost for point in chart.points) or 1

    def x_of(cost):
        return LEFT + cost / most * (CHART_WIDTH - LEFT - 2 * RIGHT)

    def y_of(share):
        return (
            CHART_HEIGHT
            - BOTTOM
            - (share - low) / (high - low) * (_inner_height())
        )

    shapes = _axes(np.arange(low, high + step / 2, step), y_of)
    for cost in (0, most / 2, most):
        x, text = x_of(cost), large(cost)
        shapes.append(_text(x, CHART_HEIGHT - 28, text, "svg-tick"))
    shapes.append(_axis_label(chart.label))
    best = sorted(
        (point for point in chart.points if point.is_best),
        key=lambda point: point.cost,
    )
    path = "M" + "".join(
        f"{'H' if n else ''}{x_of(point.cost):.1f}"
        f"{'V' if n else ' '}{y_of(point.share):.1f}"
        for n, point in enumerate(best)
    )
    if best:
        path += f"H{CHART_WIDTH - RIGHT}"
        shapes.append(Shape("path", {"d": path, "class": "svg-line"}))
    numbers = collections.defaultdict(list)
    for number, point in enumerate(chart.points, 1):
        x, y = x_of(point.cost), y_of(point.share)
        shapes += _point(point, x, y, *map(y_of, point.interval))
        numbers[round(x / NEAR), round(y / NEAR)].append((number, x, y))
        said = f"{number}  {point.name}"
        note = f"{percent(point.share)} at {large(point.cost)}"
        note += ", chosen" if point.is_chosen else ""
        y = CHART_HEIGHT + 14 + (number - 1) * KEY_ROW
        line = _text(8, y, _short(said, KEY), "svg-key", said)
        shapes.append(dataclasses.replace(line, note=note))
    for own in numbers.values():  # Those of one place stand together.
        (_, x, y), said = own[0], ", ".join(str(number) for number, *_ in own)
        shapes.append(_text(x - 10, y - 6, said, "svg-end"))
    height = CHART_HEIGHT + len(chart.points) * KEY_ROW + 8
    return Drawing(CHART_WIDTH, height, shapes)


def _point(point, x, y, lowest, highest):
    """Draws a model with its interval."""
    path = f"M{x:.1f} {lowest:.1f}V{highest:.1f}"
    shapes = [Shape("path", {"d": path, "class": "svg-axis"})]
    middle = {"cx": f"{x:.1f}", "cy": f"{y:.1f}"}
    if point.is_plain:
        mark = _rect(x - 4, y - 4, 8, 8, "svg-plain")
    else:
        mark = Shape("circle", {**middle, "r": 4, "class": "svg-own"})
    shapes.append(dataclasses.replace(mark, title=point.name))
    if point.is_chosen:
        ring = {**middle, "r": 8, "class": "svg-ring"}
        shapes.append(Shape("circle", ring, title="chosen"))
    return shapes


def _inner_height():
    return CHART_HEIGHT - TOP - BOTTOM


def _axes(shares, y_of):
    """Draws a line at every share, with its percentage on the left."""
    shapes = []
    for each in shares:
        y = y_of(each)
        path = f"M{LEFT} {y:.1f}H{CHART_WIDTH - RIGHT}"
        shapes.append(Shape("path", {"d": path, "class": "svg-grid"}))
        text = f"{100 * each:.0f} %"
        shapes.append(_text(LEFT - 8, y + 4, text, "svg-end"))
    return shapes


def _axis_label(text):
    x = (LEFT + CHART_WIDTH - RIGHT) / 2
    return _text(x, CHART_HEIGHT - 8, text, "svg-tick")


def _text(x, y, text, kind, title=""):
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind}
    return Shape("text", place, text, title if title != text else "")


def _rect(x, y, width, height, kind):
    return Shape(
        "rect",
        {
            "x": f"{x:.1f}",
            "y": f"{y:.1f}",
            "width": f"{width:.1f}",
            "height": f"{height:.1f}",
            "rx": 2,
            "class": kind,
        },
    )


def _short(text, most=CHARACTERS):
    return text if len(text) <= most else f"{text[: most - 1]}…"
