"""Composition specs of random keys and values, drawn from their JSON schema."""

import json
import random
import string
from importlib import resources
from typing import Any

import yaml
from mutations import mutate_value
from mutations import mutated

SCHEMA = json.loads(
    resources.files("kmod").joinpath("spec/composition.schema.json").read_text()
)
TEXTS = ("one", "two", "s", "no", "010", "1e3", "é", "x" * 201, "a: b", "1:1:1")
JUNK = (None, True, -1, 0, 1, 2**70, 1e308, 0.5, "", "~/x", "../s", [], {})
DEEPEST = 8
TAME = 100  # Depth of what holds no junk.


def random_spec(draw: random.Random) -> bytes:
    """Returns the text of a spec, most often with a few faults.

    Args:
        draw: Draws it; give it the same state for the same spec.
    """
    is_wild = draw.random() < 0.5
    data = _value(SCHEMA, draw, 0 if is_wild else -TAME)
    if not is_wild:
        _make_valid(data, draw)
    for _ in range(draw.choice((0, 0, 1, 3))):
        if isinstance(data, (dict, list)) and data:
            mutate_value(data, draw)
    style = draw.choice((None, True, False))
    text = yaml.safe_dump(
        data, default_flow_style=style, allow_unicode=draw.random() < 0.5
    ).encode("utf-8", "surrogatepass")
    return mutated(text, draw)[1] if draw.random() < 0.3 else text


def _make_valid(data, draw):
    """Settles what the schema can not say: which keys and names go along."""
    for key in draw.choice((("base", "patches"), ("classes", "scores"))):
        data.pop(key, None)
    store = {"path": "store"}
    data.update(version=1, name="random", stores={"s": store})
    data.pop("license", None)
    data.pop("checks", None)
    names = [f"class {number}" for number in range(10)]
    module = {"store": "s", "class": names[0]}
    for index, entry in enumerate(data.get("classes", [])):
        entry.clear()
        entry.update(name=names[index], module=module)
    if "patches" in data:
        data["base"] = {"path": "weak.keras", "classes": names}
        for index, entry in enumerate(data["patches"]):
            entry.clear()
            entry.update({"class": names[index], "module": module})
    elif "classes" not in data:
        data["classes"] = [{"name": each, "module": module} for each in names]


def _value(schema, draw, depth):
    if depth >= 0 and (draw.random() < 0.02 or depth > DEEPEST):
        return draw.choice(JUNK)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _value(SCHEMA["$defs"][name], draw, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw.choice(schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = draw.choice(kind)
    if kind is None and "properties" in schema:
        kind = "object"
    if kind is None and "oneOf" in schema:
        return _value(draw.choice(schema["oneOf"]), draw, depth + 1)
    return _OF_KIND.get(kind, _junk)(schema, draw, depth)


def _object(schema, draw, depth):
    required = set(schema.get("required", ()))
    for each in schema.get("oneOf", ())[:1] if draw.random() < 0.9 else ():
        required |= set(each.get("required", ()))
    made = {}
    for key, part in schema.get("properties", {}).items():
        if key in required or draw.random() < 0.3:
            made[key] = _value(part, draw, depth + 1)
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        for _ in range(draw.randint(0, 3)):
            made[draw.choice(("s", "t", "x y", "1"))] = _value(
                others, draw, depth + 1
            )
    return made


def _array(schema, draw, depth):
    least = schema.get("minItems", 0)
    count = draw.choice((least, least, least + 1, draw.randint(0, 5)))
    return [
        _value(schema.get("items", {}), draw, depth + 1) for _ in range(count)
    ]


def _text(schema, draw, depth):
    examples = schema.get("examples", TEXTS)
    if draw.random() < 0.8:
        return draw.choice((*examples, *TEXTS[:3]))
    letters = draw.choices(string.printable, k=draw.randint(0, 30))
    return draw.choice((*TEXTS, "".join(letters)))


def _number(schema, draw, depth):
    low = schema.get("minimum", schema.get("exclusiveMinimum", -3))
    return draw.choice((low, low + 1, draw.uniform(-2, 300), 32, 1, 255))


def _junk(schema, draw, depth):
    return draw.choice(JUNK)


_OF_KIND: dict[str, Any] = {
    "object": _object,
    "array": _array,
    "string": _text,
    "number": _number,
    "integer": lambda *args: int(_number(*args)),
    "boolean": lambda schema, draw, depth: draw.random() < 0.5,
}
