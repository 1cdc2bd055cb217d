import re
from xml.etree import ElementTree

import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.report import parts
from kmod.report.drawings import LEFT
from kmod.report.drawings import draw_frontier
from kmod.report.page import SHADES
from kmod.report.page import render_drawing
from kmod.report.page import render_page
from kmod.report.page import shade
from kmod.report.page import write_page

EVIL = "<script>alert(1)</script>\"'&"


def page_of(*given, title="A page", masks=()):
    section = parts.Section("first", title, given)
    return parts.Page("kind", title, title, [section], masks)


def mapped_picture():
    picture = parts.Picture("data:image/png,", EVIL, EVIL)
    return parts.MappedPicture(picture, "data:image/png,")


def evil_parts():
    shares = np.array([[0.0, 1.0], [0.254, np.nan]])
    return [
        parts.Tiles([parts.Tile(EVIL, EVIL, EVIL)]),
        parts.Table(EVIL, [EVIL, EVIL], [[EVIL, parts.Cell(EVIL, 1.0, 0.5)]]),
        parts.HeatMap(EVIL, [EVIL] * 2, [EVIL] * 2, EVIL, EVIL, shares),
        parts.Diagram(
            EVIL,
            [parts.Group(EVIL, EVIL, EVIL, 9, [parts.Branch(EVIL, 3, EVIL)])],
        ),
        parts.Histogram(
            EVIL, EVIL, np.array([0, 1, 2]), {EVIL: np.ones(2)}, 1.0, EVIL
        ),
        parts.Reliability(
            EVIL, np.array([0, 0.5, 1]), np.array([np.nan, 1]), np.array([0, 3])
        ),
        parts.Pictures(EVIL, [parts.Picture("data:image/png,", EVIL, EVIL)]),
        parts.Gallery(
            EVIL, [parts.GalleryRow(EVIL, EVIL, {EVIL: [mapped_picture()]})]
        ),
        parts.Code(EVIL, EVIL),
        parts.Text(EVIL),
    ]


def test_names_can_not_become_markup(read_page):
    text = render_page(page_of(*evil_parts(), title=EVIL, masks=[[0, 1]]))
    read = read_page(text)
    assert "<script>alert" not in text
    assert EVIL in read.text and f"{EVIL} – kmod" in read.text


def test_every_part_is_tried():
    tried = {type(part) for part in evil_parts()}
    assert tried == set(parts.Part.__args__)


def test_table_sorts_by_values():
    table = parts.Table("Ants", ["name", "legs"], [["ant", parts.number(1234)]])
    text = render_page(page_of(table))
    heading = '<th scope="col" aria-sort="none"><button type="button">legs'
    assert heading in text
    assert '<td data-value="1234.0">1,234</td>' in text
    assert '<th scope="row">ant</th>' in text


def test_heat_map_is_walked_through(read_page):
    shares = np.array([[0.0, 0.254], [1.0, np.nan]])
    heat = parts.HeatMap("m", ["a", "b"], ["x", "y"], "class", "layer", shares)
    text = render_page(page_of(heat))
    (grid,) = read_page(text).all("table", role="grid")
    assert (grid["data-row"], grid["data-column"]) == ("class", "layer")
    assert len(re.findall(r'<td[^>]* tabindex="0"', text)) == 1
    cells = re.findall(r'<td class="h(\d+)"[^>]*>(\d+)</td>', text)
    assert cells == [("0", "0"), ("3", "25"), ("10", "100")]
    assert "<td></td>" in text
    assert 'role="status"' in text and "ArrowRight" in text


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 0), (0.001, 1), (0.1, 1), (0.3, 3), (0.99, 10), (1.0, 10)],
)
def test_shade(share, expected):
    assert shade(share) == expected


def test_unknown_shares_have_no_shade():
    assert shade(float("nan")) is None


def luminance(colour):
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in values
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_is_told_from_its_ground(theme):
    style = re.search(r"<style>(.*?)</style>", render_page(page_of()), re.S)[1]
    block = re.findall(r":root \{(.*?)\}", style, re.S)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    pairs = [
        (ink, ground)
        for ink in ("ink", "soft", "tint")
        for ground in ("paper", "card", "wash")
    ]
    pairs += [("head-ink", "head"), ("head-soft", "head"), ("warm", "card")]
    pairs += [
        ("light-ink" if number < 7 else "dark-ink", f"h{number}")
        for number in range(SHADES + 1)
    ]
    for pair in pairs:
        low, high = sorted(luminance(colours[name]) for name in pair)
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (parts.large, 0, "0"),
        (parts.large, 999, "999"),
        (parts.large, 999_940, "1.00 M"),
        (parts.large, 12_340_000, "12.3 M"),
        (parts.large, 2_405_000_000, "2.40 G"),
        (parts.in_bytes, 512, "512 bytes"),
        (parts.in_bytes, 1536, "1.5 KiB"),
        (parts.percent, 0.98611, "98.6 %"),
    ],
)
def test_numbers_are_rounded(write, value, expected):
    assert write(value) == expected


def test_only_an_untouched_report_is_replaced(tmp_path):
    path = tmp_path / "report.html"
    write_page(page_of(), path)
    with pytest.raises(UsageError, match="must be new"):
        write_page(page_of(), path)
    write_page(page_of(title="Newer"), path, overwrite=True)
    text = path.read_text("utf-8")
    assert "Newer" in text
    path.write_text(text.replace("Newer", "Mine"), "utf-8")
    with pytest.raises(UsageError, match="nobody edited"):
        write_page(page_of(), path, overwrite=True)


def frontier_of(**chosen):
    points = [
        parts.Point("small", 1e6, 0.7, (0.66, 0.74), is_best=True),
        parts.Point("large", 4e6, 0.8, (0.76, 0.84), is_best=True, **chosen),
        parts.Point(EVIL + "\x00", 4e6, 0.75, (0.71, 0.79), is_plain=True),
    ]
    return draw_frontier(parts.Frontier(EVIL, points))


def test_drawing_is_a_file_of_its_own():
    text = render_drawing(frontier_of(is_chosen=True), EVIL)
    drawn = ElementTree.fromstring(text)
    assert EVIL in " ".join(drawn.itertext())
    assert "<script>" not in text and "var(" not in text
    kinds = [each.get("class") for each in drawn.iter()]
    assert kinds.count("svg-own") == 2
    assert kinds.count("svg-plain") == kinds.count("svg-ring") == 1


def test_frontier_is_to_scale():
    shapes = frontier_of().shapes
    marks = [each.attributes for each in shapes if each.tag == "circle"]
    (x, y), (far, high) = ((float(m["cx"]), float(m["cy"])) for m in marks)
    (line,) = [s for s in shapes if s.attributes.get("class") == "svg-line"]
    assert line.attributes["d"].startswith(f"M{x:.1f} {y:.1f}H{far:.1f}V")
    assert far - LEFT == pytest.approx(4 * (x - LEFT), abs=0.3)
    spans = [
        [float(end) for end in re.findall(r"[\d.]+", each.attributes["d"])]
        for each in shapes
        if each.attributes.get("class") == "svg-axis"
    ]
    for middle, (_, lowest, highest) in zip((y, high), spans):
        assert middle == pytest.approx((lowest + highest) / 2, abs=0.1)
    assert high < y  # Better ones are above.
