"""Reports say how classes depend on each other and what modules look at."""

import base64
import html
import re

import numpy as np
import pytest

import kmod
from kmod.analysis.dependence import dependence
from kmod.report import understood
from kmod.report.measured import measure
from kmod.report.parts import Gallery
from kmod.report.pictures import map_source
from kmod.report.subject import open_subject
from kmod.report.understood import understanding_sections
from kmod.report.write import read_images


def sections_of(thing, data):
    subject = open_subject(thing)
    measured = measure(subject, read_images(subject, data, "test"), "digits")
    return {
        section.key: section
        for section in understanding_sections(subject, measured)
    }


@pytest.fixture(scope="module")
def sections(donor, digits):
    return sections_of(donor, digits)


@pytest.fixture(scope="module")
def gallery(sections):
    (found,) = (
        part
        for part in sections["explanation"].parts
        if isinstance(part, Gallery)
    )
    return found


def test_table_says_what_dependence_found(sections, donor, digits):
    found = dependence(donor, digits, split="test")
    table = sections["dependence"].parts[1]
    for row, name in zip(table.rows, donor, strict=True):
        index = found.class_names.index(name)
        assert row[0] == name
        assert row[1] == (", ".join(found.partners(name)) or "alone")
        assert row[3].text == f"{found.coupling_of(name):.3f}"
        gain = -found.exchange_cost[index]
        assert row[6].value == pytest.approx(gain)
        assert float(row[6].text) == pytest.approx(100 * gain, abs=0.006)


def test_gallery_shows_the_most_and_the_least_confident(gallery, donor, digits):
    images = digits.test
    for row, name in zip(gallery.rows, donor, strict=True):
        found = kmod.explain(donor[name], images)
        chances = 1 / (1 + np.exp(-found.scores.astype("float64")))
        for title, rows in (
            ("most confident", found.most_confident(3)),
            ("least confident", found.least_confident(3)),
        ):
            shown = row.groups[title]
            assert [each.picture.text for each in shown] == [
                f"{100 * chances[each]:.1f} %" for each in rows
            ]
            assert [each.picture.title for each in shown] == [
                digits.class_names[images.labels[each]] for each in rows
            ]


def test_maps_of_a_module_have_one_scale(gallery, donor, digits):
    found = kmod.explain(donor["8"], digits.test)
    rows = [*found.most_confident(3), *found.least_confident(3)]
    largest = float(np.abs(found.maps[rows]).max())
    shown = [
        each.overlay
        for group in gallery.rows[1].groups.values()
        for each in group
    ]
    expected = [map_source(found.maps[row], largest) for row in rows]
    wrong = sum(a != b for a, b in zip(shown, expected, strict=True))
    assert wrong <= 1  # A rounding may differ.


def test_exactness_is_said(sections, gallery):
    intro = sections["explanation"].parts[0].text
    assert "The maps are exact" in intro
    inexact = understood._explanation([(row, False) for row in gallery.rows])
    assert "do not add up: a place" in inexact.parts[0].text
    mixed = zip(gallery.rows, (True, False, True))
    mixed = understood._explanation(list(mixed)).parts[0].text
    assert "Where a hidden layer follows" in mixed


def test_kernels_in_common_are_counted(donor):
    (infos,) = open_subject(donor).module_infos.values()
    kept = [
        {**info.kept_kernels, "conv_3": own}
        for info, own in zip(infos, ((0, 1, 2), (2, 3, 4, 5), (4, 5)))
    ]
    infos = [
        type(info)(**{**vars(info), "kept_kernels": own})
        for info, own in zip(infos, kept)
    ]
    notes = [note for _, note in understood._shared(donor, infos)]
    assert notes == [
        "15 kernels, 2 its own; most in common with 8: 13",
        "16 kernels, 1 its own; most in common with 9: 14",
        "14 kernels, 0 its own; most in common with 8: 14",
    ]


def test_class_without_images_leaves_dependence_out(donor, digits):
    test = digits.test.take(np.flatnonzero(digits.test.labels != 1))
    found = sections_of(donor, (test.images, test.labels))
    assert list(found) == ["explanation"]


def test_composed_model_shows_the_modules_it_has(
    donor, digits, spec_of, tmp_path
):
    spec = spec_of(donor, {"three": "3", "8": "8"}, tmp_path / "spec.yaml")
    found = sections_of(spec.path, digits)
    assert list(found) == ["explanation"]
    (gallery,) = found["explanation"].parts[1:]
    assert [row.name for row in gallery.rows] == ["three: 3", "8"]


def test_pictures_of_many_classes_are_few_and_small(
    donor, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(understood, "MANY_CLASSES", 2)
    monkeypatch.setattr(understood, "FEW_PIXELS", 4)
    path = tmp_path / "report.html"
    kmod.write_report(donor, path, data=digits)
    text = html.unescape(path.read_text("utf-8"))
    text = text[text.index('class="gallery"') :].split("</figure>")[0]
    sources = re.findall(r'src="data:image/png;base64,(.*?)"', text)
    assert len(sources) == 2 * 2 * len(donor)
    sizes = [base64.b64decode(each)[16:24] for each in sources]
    assert set(sizes) == {bytes([0, 0, 0, 4, 0, 0, 0, 4])}
