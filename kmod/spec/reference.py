"""Writes the tables of all keys of a spec, from the schema."""

import json
from collections.abc import Iterator
from typing import Any

from kmod.spec.schema import read_schema

_DEFINITIONS = "#/$defs/"
_KINDS = {"integer": "whole number", "number": "number", "string": "text"}
_LIMITS = {
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
    "maxLength": "at most {} characters",
}
_HEAD = """\
# All keys of a composition spec

Written by `kmod schema --markdown`; [spec.md](spec.md) explains them.
"""


def reference_markdown() -> str:
    """Returns a Markdown page with a table for each mapping of a spec."""
    schema = read_schema()
    mappings = [
        ("The spec", schema),
        *(
            (part["title"], part)
            for part in schema["$defs"].values()
            if "properties" in part
        ),
    ]
    sections = (
        f"## {title}\n\n{_table(part, schema['$defs'])}"
        for title, part in mappings
    )
    return "\n".join([_HEAD, *sections])


def _table(mapping, definitions):
    rows = [("Key", "Takes", "Meaning", "Example"), ("---",) * 4]
    for key, part in mapping["properties"].items():
        is_required = key in mapping.get("required", ())
        takes = _takes(part, definitions)
        meaning = part["description"] + " Required." * is_required
        example = f"`{_example(part['examples'][0])}`"
        rows.append((f"`{key}`", takes, meaning, example))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _takes(part: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Says in a few words what values a key takes."""
    if "$ref" in part:
        part = definitions[part["$ref"].removeprefix(_DEFINITIONS)]
        if "title" in part:
            title = part["title"]
            anchor = title.lower().replace(" ", "-")
            return f"[{title[0].lower()}{title[1:]}](#{anchor})"
    if "enum" in part:
        return " or ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if part["type"] == "array":
        items = _takes(part["items"], definitions)
        if part.get("minItems") == part.get("maxItems"):
            return f"list of {part['minItems']}: {items}"
        return f"list of {part['minItems']} or more: {items}"
    if part["type"] == "object":
        values = _takes(part["additionalProperties"], definitions)
        return f"mapping of ids to {values}"
    if "pattern" in part:
        return part["description"].removeprefix("Accepted: ").rstrip(".")
    is_as_written = isinstance(part["type"], list)
    kind = "text as it is written" if is_as_written else _KINDS[part["type"]]
    return ", ".join([kind, *_limits(part)])


def _limits(part) -> Iterator[str]:
    for keyword, words in _LIMITS.items():
        if keyword in part:
            yield words.format(part[keyword])


def _example(value):
    """Formats a value as one line of YAML."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_example, value))}]"
    if isinstance(value, dict):
        items = (f"{key}: {_example(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    return json.dumps(value)
