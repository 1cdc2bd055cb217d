"""`kmod schema`: prints the JSON Schema of composition specs or job lists."""

import argparse
import json

from kmod.cli import console

_DEFINITIONS = "#/$defs/"
_TYPES = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
}
_LIMITS = {
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
    "maxLength": "at most {} characters",
}
_SPEC_HEAD = """\
# All keys of a composition spec

Written by `kmod schema --markdown`; [spec.md](spec.md) explains them.
"""
_JOBS_HEAD = """\
# All keys of a job list

Written by `kmod schema --jobs --markdown`; [jobs.md](jobs.md) explains them.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of composition specs or job lists",
        description="Prints the JSON Schema of composition specs, for editors "
        "and other tools.",
    )
    parser.add_argument(
        "--jobs", action="store_true", help="print that of job lists instead"
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print tables of all keys, for people",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.files.schemas import read_schema
    from kmod.jobs.job_file import SCHEMA
    from kmod.spec.faults import SPEC_SCHEMA

    schema = read_schema(SCHEMA if args.jobs else SPEC_SCHEMA)
    if args.markdown:
        head = (_JOBS_HEAD, "list") if args.jobs else (_SPEC_HEAD, "spec")
        console.print_data(_page(schema, *head))
    else:
        console.print_json(schema)
    return 0


def _page(schema, head, what):
    """Writes a table for each mapping of a spec or job list."""
    mappings = [
        (f"The {what}", schema),
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
    return "\n".join([head, *sections]).rstrip("\n")


def _table(mapping, definitions):
    rows = [("Key", "Takes", "Meaning", "Example"), ("---",) * 4]
    for key, part in mapping["properties"].items():
        is_required = key in mapping.get("required", ())
        takes = _takes(part, definitions)
        meaning = part["description"] + " Required." * is_required
        example = f"`{_example(part['examples'][0])}`"
        rows.append((f"`{key}`", takes, meaning, example))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _takes(part, definitions):
    """Says in a few words what values a key takes."""
    if "$ref" in part:
        part = definitions[part["$ref"].removeprefix(_DEFINITIONS)]
        if "title" in part:
            title = part["title"]
            anchor = title.lower().replace(" ", "-")
            return f"[{title[0].lower()}{title[1:]}](#{anchor})"
    if "then" in part:  # One of a few words, or a mapping.
        words = _takes(part["then"], definitions)
        shares = _takes(part["additionalProperties"], definitions)
        return f"{words} or mapping of class names to {shares}"
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
    words = "text as it is written" if is_as_written else _TYPES[part["type"]]
    limits = (text.format(part[k]) for k, text in _LIMITS.items() if k in part)
    return ", ".join([words, *limits])


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
