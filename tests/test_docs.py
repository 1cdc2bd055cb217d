import ast
import configparser
import inspect
import re
from pathlib import Path

import pytest

import kmod
from kmod.jobs.job_file import load_jobs
from kmod.spec.faults import InvalidSpecError
from kmod.spec.spec_file import load_spec

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "trials.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
API = ROOT / "docs" / "api.md"
CONTRIBUTING = ROOT / "docs" / "contributing.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")
SIGNATURE = re.compile(r"`kmod\.([\w.]+)(\([^`]*\))`")


def text_of(page):
    """A page's text without its blocks of code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"```.*?```", "", text, flags=re.S)


def anchors(page):
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.M)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


def broken_links(page):
    for link in LINK.findall(text_of(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield link
        elif anchor and anchor not in anchors(target):
            yield link


def plain_signature(function):
    """A signature without hints; what is not plain is not spelt out."""
    parameters = []
    for each in inspect.signature(function).parameters.values():
        default = each.default
        is_plain = isinstance(default, bool | int | float | str | None)
        if default is not each.empty and not (is_plain or default == ()):
            each = each.replace(default=...)
        parameters.append(each.replace(annotation=each.empty))
    return str(inspect.Signature(parameters)).replace("Ellipsis", "...")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    assert not list(broken_links(page))


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](page.md#one-two) [b](no.md) [c](#three)\n")
    assert list(broken_links(page)) == ["no.md", "#three"]


@pytest.mark.parametrize(
    ("name", "load"),
    [("jobs.md", load_jobs), ("reuse.md", load_spec), ("spec.md", load_spec)],
)
def test_lists_and_specs_of_the_docs_are_valid(name, load, blocks, tmp_path):
    found = blocks(ROOT / "docs" / name, "yaml")
    whole = [text for text in found if re.search("^version:", text, re.M)]
    assert whole
    for text in whole:
        path = tmp_path / "some.yaml"
        path.write_text(text)
        assert load(path)
        path.write_text(f"{text}nonsense: 1\n")
        with pytest.raises(InvalidSpecError, match="unknown key 'nonsense'"):
            load(path)


def test_every_public_name_is_in_the_reference():
    named = set(re.findall(r"`kmod\.([\w.]+)", API.read_text("utf-8")))
    public = set()
    for name in kmod.__all__:
        value = getattr(kmod, name)
        if inspect.ismodule(value):
            public |= {f"{name}.{each}" for each in value.__all__}
        else:
            public.add(name)
    assert public - named == set()


@pytest.mark.parametrize(
    "name, signature",
    SIGNATURE.findall(API.read_text(encoding="utf-8")),
    ids=lambda part: part if part[0] != "(" else "",
)
def test_signature_in_the_reference_is_the_real_one(name, signature):
    found = kmod
    for part in name.split("."):
        found = getattr(found, part)
    assert plain_signature(found) == signature


def test_folders_are_listed_in_the_order_of_imports():
    tests = (ROOT / "tests/test_imports.py").read_text(encoding="utf-8")
    (order,) = re.findall(r"^ORDER = (\(.*?\))$", tests, re.M | re.S)
    rows = re.findall(r"^\| (`.*?`) \|", CONTRIBUTING.read_text("utf-8"), re.M)
    listed = re.findall(r"`(\w+)/?`", " ".join(rows))
    assert listed == list(ast.literal_eval(order))


def test_dockerfile_takes_what_is_there():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (.*) \S+$", text, re.M)
    paths = [path for line in copied for path in line.split()]
    assert "kmod" in paths
    assert all((ROOT / path).exists() for path in paths)
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.M)
    known = configparser.ConfigParser()
    known.read(ROOT / "setup.cfg")
    assert set(extras.split(",")) <= known["options.extras_require"].keys()
