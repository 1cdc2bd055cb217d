import json
from pathlib import Path

import pytest

from kmod.cli.main import main
from kmod.spec.faults import read_schema

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def tables(capsys):
    """The page that `kmod schema --markdown` prints."""
    assert main(["schema", "--markdown"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_schema_is_printed_as_json(capsys):
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == read_schema()
    assert err == ""


def test_docs_hold_the_tables_of_this_schema(tables):
    written = (DOCS / "spec_keys.md").read_text(encoding="utf-8")
    assert (
        written == tables
    ), "Run `kmod schema --markdown > docs/spec_keys.md`."


def test_every_key_is_in_a_table(tables):
    for part in (read_schema(), *read_schema()["$defs"].values()):
        for key in part.get("properties", {}):
            assert f"| `{key}` |" in tables


@pytest.mark.parametrize(
    "row",
    [
        "| `max` | number, at least -1000000, at most 1000000 | The most it "
        "may be: of all but qualities. | `0.05` |",
        "| `version` | `1` | Version of this format. Required. | `1` |",
        "list of 2 or more: [a module](#a-module)",
        "list of 3: whole number, at least 1, at most 16384",
        "`{shape: [32, 32, 3], range: [0, 255]}`",
    ],
)
def test_row(tables, row):
    assert row in tables


def test_links_lead_to_headings(tables):
    lines = tables.splitlines()
    anchors = {line[3:].lower().replace(" ", "-") for line in lines}
    for line in lines:
        for link in line.split("](#")[1:]:
            assert link.partition(")")[0] in anchors
