"""The examples in `specs/`: valid, complete, and every one can be composed."""

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import kmod
from kmod.composition.composer import compose
from kmod.composition.plan import plan
from kmod.files.schemas import expanded_schema
from kmod.spec.faults import SPEC_SCHEMA
from kmod.spec.spec_file import load_spec

SPECS = Path(__file__).parents[1] / "specs"
NAMES = sorted(path.stem for path in SPECS.glob("*.yaml"))
MODELINE = "# yaml-language-server: $schema="


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the examples beside small stores, as they expect them."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(SPECS, folder / "specs")
    path = SPECS / "build_sources.py"
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    module.build_sources(folder, epochs=2)
    return folder


def test_there_are_enough():
    assert len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_first_line_leads_to_the_schema(name):
    first = (SPECS / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(MODELINE)
    assert (SPECS / first.removeprefix(MODELINE)).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_and_bears_its_file_name(name):
    spec = load_spec(SPECS / f"{name}.yaml")
    assert spec.warnings == ()
    assert spec.name == name.replace("_", "-")


def schema_keys(schema, path=()):
    """Yields the path of every key that a schema describes."""
    for key, part in schema.get("properties", {}).items():
        yield (*path, key)
        yield from schema_keys(part, (*path, key))
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from schema_keys(schema[keyword], (*path, "*"))


def used_keys(value, schema, path=()):
    """Yields the path of every key in data that keep to a schema."""
    if isinstance(value, list):
        for item in value:
            yield from used_keys(item, schema["items"], (*path, "*"))
    elif isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            yield (*path, key)
            part = schema["properties"][key]
            yield from used_keys(item, part, (*path, key))
    elif isinstance(value, dict):
        for item in value.values():
            part = schema["additionalProperties"]
            yield from used_keys(item, part, (*path, "*"))


def test_together_they_use_every_key():
    schema = expanded_schema(SPEC_SCHEMA)
    used = {
        key
        for name in NAMES
        for key in used_keys(
            yaml.safe_load((SPECS / f"{name}.yaml").read_text()), schema
        )
    }
    assert used == set(schema_keys(schema))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_composed(name, folder):
    path = folder / "specs" / f"{name}.yaml"
    digest = kmod.load_store(folder / "modules/digits", verify=False).digest
    path.write_text(re.sub("sha256:[0-9a-f]{64}", digest, path.read_text()))
    spec = load_spec(path)
    assert plan(spec).warnings == ()
    model = compose(spec)
    low, high = plan(spec).input.range
    shape = (5, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(low, high, shape)
    answers = model.predict(images.astype("float32"), verbose=0)
    assert model.class_names == spec.class_names
    assert answers.shape == (5, len(spec.class_names))
    assert np.isfinite(answers).all()
