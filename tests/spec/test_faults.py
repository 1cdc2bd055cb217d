import jsonschema
import pytest

from kmod.files.schemas import expanded_schema
from kmod.files.schemas import read_schema
from kmod.jobs.job_file import SCHEMA
from kmod.spec.faults import _RULES
from kmod.spec.faults import SPEC_SCHEMA

SCHEMAS = (SPEC_SCHEMA, SCHEMA)
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


@pytest.fixture(params=SCHEMAS)
def name_of_schema(request):
    return request.param


def test_schema_is_valid(name_of_schema):
    schema = read_schema(name_of_schema)
    jsonschema.Draft202012Validator.check_schema(schema)


def test_expanded_schema_has_no_references(name_of_schema):
    for _, schema in sub_schemas(expanded_schema(name_of_schema)):
        assert "$ref" not in schema


def test_every_keyword_is_old_and_has_an_explanation(name_of_schema):
    found = sub_schemas(read_schema(name_of_schema))
    used = {key for _, schema in found for key in schema}
    assert used <= ANNOTATIONS | NESTING | EXPLAINED


def test_every_mapping_is_closed(name_of_schema):
    for name, schema in sub_schemas(read_schema(name_of_schema)):
        if schema.get("type") == "object" and name != "stores":
            assert schema["additionalProperties"] is False, name


def described_keys():
    for name_of_schema in SCHEMAS:
        for name, schema in sub_schemas(read_schema(name_of_schema)):
            if name == "if":
                continue
            for key, part in schema.get("properties", {}).items():
                yield pytest.param(name_of_schema, part, id=f"{name}.{key}")


@pytest.mark.parametrize(("name", "part"), list(described_keys()))
def test_every_key_has_a_description_and_valid_examples(name, part):
    assert part["description"].endswith(".")
    schema = {**part, "$defs": read_schema(name)["$defs"]}
    for example in part["examples"]:
        jsonschema.validate(
            example, schema, cls=jsonschema.Draft202012Validator
        )
