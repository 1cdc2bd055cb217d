import re
from html.parser import HTMLParser

import pytest

VOID = {"meta", "link", "img", "br", "input", "hr"}
SHAPES = {"path", "rect"}


class PageReader(HTMLParser):
    """Reads a page, and notes where it is not well-formed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.elements, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID | SHAPES, tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style", "script"):
            self.text.append(" ".join(data.split()))

    def all(self, tag, **wanted):
        return [
            attrs
            for name, attrs in self.elements
            if name == tag
            and all(attrs.get(key) == wanted[key] for key in wanted)
        ]


def check_page(text):
    """Checks what holds of every page; returns what was read."""
    read = PageReader(text)
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    for tag, attrs in read.elements:
        for name in ("aria-labelledby", "aria-describedby", "data-readout"):
            assert set(attrs.get(name, "").split()) <= set(ids), (tag, attrs)
        if "href" in attrs:
            assert attrs["href"] == "data:," or attrs["href"][1:] in ids
        assert attrs.get("src", "data:image/png").startswith("data:image/png")
        assert not any(name.startswith("on") for name in attrs)
        assert tag not in ("iframe", "object", "embed", "base", "form")
    assert len(read.all("script")) == 1 and read.all("script")[0] == {}
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    headings = [int(tag[1]) for tag, _ in read.elements if tag in ("h1", "h2")]
    assert headings[0] == 1 and set(headings[1:]) == {2}
    for tag in ("main", "nav", "header", "footer"):
        assert len(read.all(tag)) == 1
    assert all(attrs.get("alt") for attrs in read.all("img"))
    return read


@pytest.fixture(scope="session")
def read_page():
    return check_page


@pytest.fixture(scope="session")
def spec_of():
    """Writes a spec of some modules of a store."""
    from kmod.spec.spec_file import write_spec

    def spec_of(store, classes, path):
        return write_spec(
            {
                "version": 1,
                "name": "some",
                "stores": {"digits": {"path": store.path}},
                "classes": [
                    {"name": new, "module": {"store": "digits", "class": old}}
                    for new, old in classes.items()
                ],
            },
            path,
        )

    return spec_of


@pytest.fixture(scope="session")
def patched(weak, donor, digits, tmp_path_factory):
    """A directory of a patched model, with the spec that made it."""
    from kmod.composition.composer import compose
    from kmod.composition.saving import save
    from kmod.spec.spec_file import write_spec

    folder = tmp_path_factory.mktemp("patched")
    weak.save(folder / "weak.keras")
    spec = write_spec(
        {
            "version": 1,
            "name": "mended",
            "stores": {"digits": {"path": donor.path}},
            "base": {
                "path": folder / "weak.keras",
                "classes": list(digits.class_names),
            },
            "patches": [
                {"class": "8", "module": {"store": "digits", "class": "8"}}
            ],
        },
        folder / "spec.yaml",
    )
    save(compose(spec), folder / "mended", formats=["keras"])
    return folder / "mended"
