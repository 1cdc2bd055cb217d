from html.parser import HTMLParser

from kmod.report.page import bar
from kmod.report.page import heat
from kmod.report.page import table


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
