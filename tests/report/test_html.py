from html.parser import HTMLParser

from kmod.report.html import bar
from kmod.report.html import heat
from kmod.report.html import table
from kmod.report.html import write_report


class Balance(HTMLParser):
    """Counts tags that are opened and not closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_text_of_users_can_not_become_markup():
    page = table(["<b>"], [["<script>alert(1)</script>"]])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_tables_are_well_formed():
    parser = Balance()
    parser.feed(table(["", "x", "y"], [["<row>", heat(0.5), bar(0.5)]]))
    assert parser.open == []


def test_shares_are_percent():
    page = table(["x", "y"], [[heat(0.254), bar(0.254)]])
    assert ">25</td>" in page
    assert "width:25%" in page and "25 %</td>" in page


def test_class_without_images_has_dashes(tmp_path):
    known = {"precision": 0.5, "recall": 0.25, "f1": 0.125}
    module = {"retention_rate": 1, "macs_ratio": 1, "kept_by_layer": {"a": 2}}
    size = {"parameters": 1, "macs": 1, "bytes": 1, "latency_ms": 1}
    classes = {"classes": {"ant": known, "bee": dict.fromkeys(known)}}
    results = {
        "data": {"name": "insects"},
        "seed": 0,
        "class_names": ["ant", "bee"],
        "source_accuracy": 0.5,
        "composed_accuracy": 0.5,
        "retention_rate": 1,
        "composed_macs_ratio": 1,
        "modules": {"ant": module | known, "bee": module},
        "kernels_by_layer": {"a": 2},
        "overlap": [[1, 1], [1, 1]],
        "sizes": {"source": size, "module": size, "composed": size},
        "patch": {
            "target_class": "ant",
            "before": known,
            "after": known,
            "other_classes_accuracy": {"before": None, "after": None},
        },
        "settings": {"weak_images": 1},
        "source": classes,
        "composed": classes,
        "seconds": {},
    }
    page = write_report(tmp_path, results).read_text("utf-8")
    dashes = "<td>– → –</td>" * 3
    assert f"<td>bee</td>{dashes}" in page
    assert "<td>ant</td><td>0.500 → 0.500</td>" in page
    assert "<td>–</td>" * 3 in page
