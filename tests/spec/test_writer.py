import dataclasses
from pathlib import Path

import pytest

from kmod.errors import SpecError
from kmod.spec.loader import load_spec
from kmod.spec.writer import spec_data
from kmod.spec.writer import write_spec

TWO_CLASSES = [
    {"name": "a", "module": {"store": "s", "class": "no"}},
    {"name": "b", "module": {"store": "s", "class": "010"}},
]


def classes_spec(**changes):
    module = {"store": "digits", "class": "no"}
    return {
        "version": 1,
        "name": "pets",
        "stores": {"digits": {"path": "store"}},
        "classes": [
            {"name": "\U0001f408", "module": module},
            {"name": "010", "module": module},
        ],
        **changes,
    }


def test_written_spec_is_read_again(tmp_path):
    path = tmp_path / "spec.yaml"
    written = write_spec(classes_spec(), path)
    assert load_spec(path) == written
    assert written.class_names == ("\U0001f408", "010")
    assert written.classes[0].modules[0].class_name == "no"


def test_keys_keep_their_order(tmp_path):
    path = tmp_path / "spec.yaml"
    write_spec(classes_spec(), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["version: 1", "name: pets"]


def test_schema_line_comes_first(tmp_path):
    path = tmp_path / "spec.yaml"
    write_spec(classes_spec(), path, schema_path="../s.json")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../s.json"


def test_path_objects_become_relative(tmp_path):
    folder = tmp_path / "specs"
    folder.mkdir()
    store = tmp_path / "modules" / "digits"
    spec_dict = classes_spec(stores={"digits": {"path": store}})
    spec = write_spec(spec_dict, folder / "spec.yaml")
    assert "path: ../modules/digits" in spec.path.read_text(encoding="utf-8")
    assert spec.stores["digits"].path == store
    assert spec_dict["stores"]["digits"]["path"] is store


def test_relative_path_objects_start_at_the_working_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    spec_dict = classes_spec(stores={"digits": {"path": Path("store")}})
    spec = write_spec(spec_dict, "out/spec.yaml")
    assert spec.stores["digits"].path == tmp_path / "store"


@pytest.mark.parametrize("value", [1e-10, 123456.5, -0.25])
def test_numbers_survive(tmp_path, value):
    patch_spec = {
        "version": 1,
        "name": "patched",
        "stores": {"digits": {"path": "store"}},
        "base": {"path": "weak.keras", "classes": ["a", "b"]},
        "patches": [
            {
                "class": "a",
                "module": {"store": "digits", "class": "a"},
                "coefficients": {"module": value, "weak": 0, "bias": 0.0},
            }
        ],
    }
    spec = write_spec(patch_spec, tmp_path / "spec.yaml")
    assert spec.patches[0].coefficients.module == value


def test_invalid_spec_is_not_written(tmp_path):
    path = tmp_path / "spec.yaml"
    with pytest.raises(SpecError, match="lacks the required `name`"):
        write_spec({"version": 1, "stores": {"a": {"path": "b"}}}, path)
    assert not path.exists()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            {
                "license": "MIT",
                "classes": [
                    {"name": "a", "module": {"store": "s", "class": "no"}},
                    {"name": "b", "module": {"store": "s", "class": "010"}},
                ],
                "scores": {"calibration": "none"},
            },
            id="classes",
        ),
        pytest.param(
            {
                "base": {"path": "../weak.keras", "classes": ["a", "b"]},
                "patches": [
                    {
                        "class": "b",
                        "module": {"store": "s", "class": "no"},
                        "coefficients": {"module": 1, "weak": 0.5, "bias": -2},
                    }
                ],
            },
            id="patch",
        ),
        pytest.param(
            {
                "base": {"path": "../weak.keras", "classes": ["a", "b"]},
                "patches": [
                    {
                        "class": "b",
                        "module": {"store": "s", "class": "no"},
                        "support": ["010", "a"],
                        "layer": {
                            "module": [0.1, 1],
                            "weak": [0.5, 0.25],
                            "bias": [0, -1e-7],
                            "support": [[1, 0], [0.5, -0.5]],
                        },
                    }
                ],
            },
            id="patch-with-layer",
        ),
        pytest.param(
            {
                "input": {
                    "shape": [8, 8, 3],
                    "range": [-1, 1],
                    "size": "pad",
                },
                "classes": [
                    {"name": "a", "module": {"store": "s", "class": "no"}},
                    {
                        "name": "b",
                        "any_of": [
                            {"store": "s", "class": "010"},
                            {"store": "s", "class": "null"},
                        ],
                    },
                ],
                "scores": {
                    "calibration": "fit",
                    "data": {"name": "digits", "split": "validation"},
                    "images_per_class": 7,
                    "output": "logits",
                    "other": {"name": "no", "threshold": 0.25},
                },
                "checks": [
                    {
                        "metric": "accuracy",
                        "min": 0.5,
                        "data": {"name": "digits", "split": "test"},
                    },
                    {
                        "metric": "recall",
                        "min": 0.5,
                        "data": {"name": "digits", "split": "test"},
                        "class": "no",
                    },
                ],
            },
            id="every-key-of-classes",
        ),
        pytest.param(
            {
                "classes": TWO_CLASSES,
                "scores": {
                    "calibration": "fit",
                    "data": [
                        {"name": "digits", "split": "validation"},
                        {"name": "mnist", "split": "train"},
                    ],
                },
            },
            id="two-data-sets",
        ),
        pytest.param(
            {
                "classes": TWO_CLASSES,
                "scores": {
                    "calibration": "joint",
                    "data": {"name": "digits", "split": "validation"},
                    "support": [{"store": "s", "class": "null"}],
                },
            },
            id="supported-scores",
        ),
        pytest.param(
            {
                "base": {"path": "../weak.keras", "classes": ["a", "b"]},
                "patches": [
                    {
                        "class": "b",
                        "module": {"store": "s", "class": "no"},
                        "combine": "minmax",
                        "range": [-1.5, 2],
                    },
                    {
                        "class": "a",
                        "module": {"store": "s", "class": "010"},
                        "combine": "raw",
                    },
                ],
            },
            id="two-patches",
        ),
    ],
)
def test_spec_data_is_the_same_spec_from_elsewhere(tmp_path, parts):
    stores = {"s": {"path": "store", "digest": "sha256:" + "0" * 64}}
    head = {"version": 1, "name": "n", "stores": stores}
    spec = write_spec(head | parts, tmp_path / "here" / "spec.yaml")
    path = tmp_path / "else" / "where" / "spec.yaml"
    again = write_spec(spec_data(spec), path)
    assert again == dataclasses.replace(spec, path=path)
