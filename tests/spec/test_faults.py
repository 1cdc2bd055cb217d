import jsonschema
import pytest

from kmod.spec.faults import _RULES
from kmod.spec.faults import expanded_schema
from kmod.spec.faults import read_schema

# Keywords of draft-07, so that older editors understand the schema, too.
ANNOTATIONS = {"$schema", "$defs", "$ref", "title", "description", "examples"}
NESTING = {
    "properties",
    "items",
    "propertyNames",
    "not",
    "allOf",
    "anyOf",
    "if",
    "then",
}
EXPLAINED = {
    "additionalProperties",
    "enum",
    "oneOf",
    "pattern",
    "required",
    "type",
    *_RULES,
}


def sub_schemas(node):
    """Yields `(name, schema)` for the schema and all schemas inside it."""
    stack = [("", node)]
    while stack:
        name, schema = stack.pop()
        yield name, schema
        for keyword in ("properties", "$defs"):
            stack.extend(schema.get(keyword, {}).items())
        for keyword in ("items", "propertyNames", "not", "if", "then"):
            if keyword in schema:
                stack.append((keyword, schema[keyword]))
        for keyword in ("oneOf", "anyOf"):
            stack.extend((keyword, part) for part in schema.get(keyword, ()))


def test_schema_is_valid():
    jsonschema.Draft202012Validator.check_schema(read_schema())


def test_expanded_schema_has_no_references():
    for _, schema in sub_schemas(expanded_schema()):
        assert "$ref" not in schema


def test_every_keyword_is_old_and_has_an_explanation():
    used = {key for _, schema in sub_schemas(read_schema()) for key in schema}
    assert used <= ANNOTATIONS | NESTING | EXPLAINED


def test_every_mapping_is_closed():
    for name, schema in sub_schemas(read_schema()):
        if schema.get("type") == "object" and name != "stores":
            assert schema["additionalProperties"] is False, name


def described_keys():
    for name, schema in sub_schemas(read_schema()):
        if name == "if":
            continue
        for key, part in schema.get("properties", {}).items():
            yield pytest.param(part, id=f"{name}.{key}")


@pytest.mark.parametrize("part", list(described_keys()))
def test_every_key_has_a_description_and_valid_examples(part):
    assert part["description"].endswith(".")
    schema = {**part, "$defs": read_schema()["$defs"]}
    for example in part["examples"]:
        jsonschema.validate(
            example, schema, cls=jsonschema.Draft202012Validator
        )
