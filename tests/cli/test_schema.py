import json
from pathlib import Path

import pytest

from kmod.cli.main import main
from kmod.files.schemas import read_schema
from kmod.jobs.job_file import SCHEMA
from kmod.spec.faults import SPEC_SCHEMA

DOCS = Path(__file__).parents[2] / "docs"


# Schema and page by the options that print them.
KINDS = {
    (): (SPEC_SCHEMA, "spec_keys.md"),
    ("--jobs",): (SCHEMA, "job_keys.md"),
}


@pytest.fixture(params=KINDS, ids=["spec", "jobs"])
def options(request):
    return request.param


def printed(capsys, *options):
    assert main(["schema", *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.fixture
def tables(capsys):
    """The page that `kmod schema --markdown` prints."""
    return printed(capsys, "--markdown")


def test_schema_is_printed_as_json(capsys, options):
    name, _ = KINDS[options]
    assert json.loads(printed(capsys, *options)) == read_schema(name)


def test_docs_hold_the_tables_of_this_schema(capsys, options):
    _, page = KINDS[options]
    command = ["schema", *options, "--markdown"]
    written = (DOCS / page).read_text(encoding="utf-8")
    assert written == printed(
        capsys, *command[1:]
    ), f"Run `kmod {' '.join(command)} > docs/{page}`."


def test_every_key_is_in_a_table(capsys, options):
    tables = printed(capsys, *options, "--markdown")
    schema = read_schema(KINDS[options][0])
    for part in (schema, *schema["$defs"].values()):
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
