from pathlib import Path

import pytest

from kmod.spec.loader import parse_spec
from kmod.spec.reference import reference_markdown
from kmod.spec.schema import read_schema

DOCS = Path(__file__).parents[2] / "docs"


def test_docs_hold_the_tables_of_this_schema():
    written = (DOCS / "spec_keys.md").read_text(encoding="utf-8")
    assert (
        written == reference_markdown()
    ), "Run `kmod schema --markdown > docs/spec_keys.md`."


def test_every_key_is_in_a_table():
    text = reference_markdown()
    for part in (read_schema(), *read_schema()["$defs"].values()):
        for key in part.get("properties", {}):
            assert f"| `{key}` |" in text


@pytest.mark.parametrize(
    "row",
    [
        "| `min` | number, at least 0, at most 1 | The least it must be. "
        "Required. | `0.9` |",
        "| `version` | `1` | Version of this format. Required. | `1` |",
        "list of 2 or more: [a module](#a-module)",
        "list of 3: whole number, at least 1, at most 16384",
        "`{shape: [32, 32, 3], range: [0, 255]}`",
    ],
)
def test_row(row):
    assert row in reference_markdown()


def test_links_lead_to_headings():
    lines = reference_markdown().splitlines()
    anchors = {line[3:].lower().replace(" ", "-") for line in lines}
    for line in lines:
        for link in line.split("](#")[1:]:
            assert link.partition(")")[0] in anchors


def test_example_of_the_docs_is_valid():
    text = (DOCS / "spec.md").read_text(encoding="utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    spec = parse_spec(example.encode(), DOCS / "example.yaml")
    assert spec.class_names == ("cat", "bag", "vehicle")
    assert spec.warnings == ()
