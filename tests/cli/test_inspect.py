import importlib
import json
import shutil

import keras
import pytest

from kmod.cli.main import main
from kmod.composition.saving import load


def inspect_json(path, capsys):
    assert main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_model(source_path, capsys):
    figures = inspect_json(source_path, capsys)
    assert figures["kind"] == "model"
    assert figures["num_classes"] == 10
    assert (figures["kernels"], figures["removable"]) == (18, 18)
    assert figures["layers"][0] == {
        "layer": "conv_1",
        "kernels": 6,
        "removable": 6,
        "pinned_by": [],
    }
    assert main(["inspect", str(source_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "18 of 18 kernels can be removed" in lines[0]
    assert lines[2].split() == ["conv_1", "6", "6"]


def test_model_says_whether_it_can_be_rebuilt(
    source_path, tmp_path, capsys, monkeypatch
):
    figures = inspect_json(source_path, capsys)
    assert figures["unmasked"]["is_exact"] is True
    assert figures["unmasked"]["gap"] < 1e-6
    assert figures["unmasked"]["differs_from"] is None
    assert main(["inspect", str(source_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("rebuilt, it answers the same, gap ")
    rebuilding = importlib.import_module("kmod.graph.rebuild")
    monkeypatch.setattr(rebuilding, "set_state", lambda *_: None)
    figures = inspect_json(source_path, capsys)
    assert figures["unmasked"]["is_exact"] is False
    assert figures["unmasked"]["differs_from"] == "conv_1"
    assert main(["inspect", str(source_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "answers otherwise" in last
    assert last.endswith("first at layer conv_1; it can not be taken apart")


def test_pinned_layers_say_why(tmp_path, capsys):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv_1")(image)
    x = keras.layers.GroupNormalization(2, name="group_norm")(x)
    x = keras.layers.Conv2D(5, 3, name="conv_2")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(2, name="classes")(x))
    model.save(tmp_path / "m.keras")
    figures = inspect_json(tmp_path / "m.keras", capsys)
    pinned, free = figures["layers"]
    assert (pinned["kernels"], pinned["removable"]) == (4, 0)
    assert pinned["pinned_by"][0].startswith("group_norm: ")
    assert (free["removable"], free["pinned_by"]) == (5, [])


def test_store(store, capsys):
    figures = inspect_json(store.path, capsys)
    assert figures["kind"] == "store"
    assert figures["digest"] == store.digest
    info = store.info("3")
    assert figures["modules"][3] == {
        "class": "3",
        "retention_rate": 1.0,
        "parameters": info.parameters,
        "macs": info.macs,
        "max_output_gap": info.max_output_gap,
    }
    assert main(["inspect", str(store.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["0", "100.0%"]
    assert len(lines) == 12


def test_module(store, tmp_path, capsys):
    moved = shutil.copytree(store.path / "3", tmp_path / "moved")
    figures = inspect_json(moved, capsys)
    assert (figures["kind"], figures["class"]) == ("module", "3")
    assert figures["kernels"] == {"conv_1": 6, "conv_2": 12}
    assert main(["inspect", str(moved)]) == 0
    assert "conv_2" in capsys.readouterr().out
    (moved / "saved_model.pb").write_bytes(b"x")
    assert main(["inspect", str(moved)]) == 4
    assert "has other bytes" in capsys.readouterr().err


def test_composed_model(composed_path, capsys):
    figures = inspect_json(composed_path, capsys)
    assert figures["kind"] == "composed model"
    assert figures["class_names"] == ["7", "1", "8"]
    model = load(composed_path)
    assert figures["parameters"] == model.count_params()
    assert [row["module"] for row in figures["sources"]] == ["7", "1", "8"]
    assert main(["inspect", str(composed_path)]) == 0
    out = capsys.readouterr().out
    assert "composed model three: classes 7, 1, 8;" in out
    saved = figures["saved_by_sharing"]
    assert saved["parameters"] > 0 and saved["macs"] > 0
    assert f"sharing saves {saved['parameters']:,} parameters" in out


def test_spec(composed_path, capsys):
    figures = inspect_json(composed_path / "spec.yaml", capsys)
    composed = inspect_json(composed_path, capsys)
    assert figures["kind"] == "spec"
    for key in ("class_names", "parameters", "macs", "saved_by_sharing"):
        assert figures[key] == composed[key]
    assert main(["inspect", str(composed_path / "spec.yaml")]) == 0
    assert "spec three: classes 7, 1, 8;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "A directory of kmod holds"), ("x.keras", "does not exist")],
)
def test_other_paths(tmp_path, capsys, name, message):
    assert main(["inspect", str(tmp_path / name)]) == 3
    assert message in capsys.readouterr().err
