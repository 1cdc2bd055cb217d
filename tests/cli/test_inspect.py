import importlib
import json
import shlex
import shutil

import keras
import pytest
from keras import layers

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
    x = keras.layers.Softmax(name="shares")(x)
    x = keras.layers.Conv2D(5, 3, name="conv_2")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(2, name="classes")(x))
    model.save(tmp_path / "m.keras")
    figures = inspect_json(tmp_path / "m.keras", capsys)
    pinned, free = figures["layers"]
    assert (pinned["kernels"], pinned["removable"]) == (4, 0)
    assert pinned["pinned_by"][0].startswith("shares: ")
    assert (free["removable"], free["pinned_by"]) == (5, [])


def test_attention_says_what_it_costs(tmp_path, capsys):
    image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(8, 1, name="tokens")(image)
    x = keras.layers.Reshape((16, 8))(x)
    for name in ("first", "second"):
        attention = keras.layers.MultiHeadAttention(2, 4, name=name)
        y = keras.layers.LayerNormalization()(x)
        x = keras.layers.Add()([x, attention(y, y)])
        y = keras.layers.Dense(12, activation="gelu", name=f"mlp_{name}")(x)
        x = keras.layers.Add()([x, keras.layers.Dense(8)(y)])
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(image, keras.layers.Dense(2, name="classes")(x))
    model.save(tmp_path / "m.keras")
    figures = inspect_json(tmp_path / "m.keras", capsys)
    assert (figures["kernels"], figures["removable"]) == (48, 24)
    by_kind = {cost["kind"]: cost for cost in figures["pins"]}
    assert by_kind["MultiHeadAttention"] == {
        "kind": "MultiHeadAttention",
        "reason": "attention compares positions by all their channels",
        "layers": ["first", "second"],
        "kernels": 24,
    }
    assert main(["inspect", str(tmp_path / "m.keras")]) == 0
    said = capsys.readouterr().out
    assert (
        "pinned: 24 kernels, 50%, by MultiHeadAttention (first, second), be"
        in said
    )


def saved(path, *in_front, activation=None, units=2, shape=(8, 8, 3)):
    """Saves a model with layers or functions in front of its first kernels."""
    image = keras.Input(shape, name="image")
    x = image
    for layer in in_front:
        x = layer(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv_1")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv_2")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv_3")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(units, activation=activation, name="classes")(x)
    keras.Model(image, x).save(path)
    return path


@pytest.mark.parametrize(
    ("in_front", "kinds", "value_range"),
    [
        pytest.param([], [], None, id="nothing"),
        pytest.param(
            [keras.layers.Rescaling(1 / 127.5, -1)],
            ["Rescaling"],
            [0.0, 255.0],
            id="rescaling",
        ),
        pytest.param(
            [
                keras.layers.Rescaling(1 / 255),
                keras.layers.Normalization(
                    mean=[0.5, 0.4, 0.4], variance=[0.06, 0.05, 0.05]
                ),
            ],
            ["Rescaling", "Normalization"],
            [0.0, 255.0],
            id="rescaling-and-normalization",
        ),
        pytest.param(
            [keras.layers.Normalization(mean=0.5, variance=0.08)],
            ["Normalization"],
            [0.0, 1.0],
            id="normalization-of-0-to-1",
        ),
        pytest.param(
            [keras.layers.Rescaling([1 / 255] * 3, [-0.5, -0.4, -0.4])],
            ["Rescaling"],
            [0.0, 255.0],
            id="rescaling-by-channel",
        ),
        pytest.param(
            [lambda x: x / 127.5 - 1],
            ["TrueDivide", "Subtract"],
            [0.0, 255.0],
            id="operations",
        ),
        pytest.param(
            [keras.layers.RandomFlip(), keras.layers.Resizing(6, 6)],
            ["Resizing"],
            None,
            id="size-only",
        ),
    ],
)
def test_model_says_what_images_it_takes(
    tmp_path, capsys, in_front, kinds, value_range
):
    path = saved(tmp_path / "m.keras", *in_front)
    found = inspect_json(path, capsys)["input"]
    assert (found["shape"], found["dtype"]) == ([8, 8, 3], "float32")
    assert [step["kind"] for step in found["preprocessing"]] == kinds
    assert found["value_range"] == value_range
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "input: 8x8x3 images, float32; preprocessing inside: " in out
    assert all(f"({kind}, " in out for kind in kinds)
    assert ("0 to 255, as that suggests" in out) == (
        value_range == [0.0, 255.0]
    )


def test_size_of_images_is_said_where_the_model_takes_any(tmp_path, capsys):
    path = str(saved(tmp_path / "open.keras", shape=(None, None, 3)))
    fixed = inspect_json(saved(tmp_path / "fixed.keras"), capsys)
    assert main(["inspect", path]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "(None, None, 3) and no --image-size. Give it." in message
    size = ["--image-size", "8", "8"]
    assert main(["inspect", path, *size, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for key in ("input", "parameters", "macs", "mask_from", "layers"):
        assert figures[key] == fixed[key]
    assert "--image-size 8 8 " in figures["next"]
    assert main(["inspect", str(tmp_path / "fixed.keras"), *size]) == 2
    assert "and --image-size. Leave it out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("units", "activation", "words"),
    [
        (2, None, "2 classes, logits"),
        (2, "softmax", "2 classes, softmax over classes"),
        (2, "sigmoid", "2 classes, a sigmoid for each class"),
        (1, "sigmoid", "2 classes, one score, the second's"),
        (1, None, "2 classes, one score, the second's"),
    ],
)
def test_model_says_what_it_answers(tmp_path, capsys, units, activation, words):
    path = saved(tmp_path / "m.keras", activation=activation, units=units)
    assert inspect_json(path, capsys)["output"] == (activation or "logits")
    assert main(["inspect", str(path)]) == 0
    assert f"output: {words}; " in capsys.readouterr().out


@pytest.mark.long
def test_proposed_command_runs_as_it_stands(tmp_path, capsys, three_path):
    # By hand: 64 * 27 * 4 = 6,912 and twice 64 * 36 * 4 = 9,216 MACs in the
    # convolutions, 8 in the head. conv_3 has 16,128 of 25,352 in front.
    figures = inspect_json(saved(tmp_path / "m.keras"), capsys)
    assert figures["mask_from"] == {
        "layer": "conv_3",
        "macs_in_front": pytest.approx(16128 / 25352),
        "removable": pytest.approx(1 / 3),
        "retention_target": 0.7,
    }
    layers = [start["layer"] for start in figures["mask_starts"]]
    assert layers == ["conv_1", "conv_2", "conv_3"]
    assert figures["mask_starts"][0]["macs_in_front"] == 0
    assert main(["inspect", str(three_path)]) == 0
    out, err = capsys.readouterr()
    assert "of the MACs are in front of it" in out
    program, *command = shlex.split(err.splitlines()[-1])
    assert program == "kmod"
    command[command.index("DATA")] = "digits"
    command[-1] = str(tmp_path / "store")
    command += ["--classes", "3,8,9", "--epochs", "1", "--frozen"]
    assert main(command) == 0


def test_model_of_which_nothing_can_be_removed_gets_no_command(
    tmp_path, capsys
):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    x = keras.layers.Softmax(name="shares")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(2, name="classes")(x))
    model.save(tmp_path / "m.keras")
    figures = inspect_json(tmp_path / "m.keras", capsys)
    assert (figures["mask_from"], figures["next"]) == (None, None)
    assert main(["inspect", str(tmp_path / "m.keras")]) == 0
    out, err = capsys.readouterr()
    assert "so it can not be taken apart" in out
    assert "kmod modularize" not in err


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
        "calibrated_on": None,
    }
    assert main(["inspect", str(store.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["0", "100.0%"]
    assert len(lines) == 12


def test_output_is_picked_by_name(tmp_path, capsys):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = [layers.Dense(n, name=f"of_{n}")(x) for n in (2, 3)]
    path = tmp_path / "two.keras"
    keras.Model(image, outputs).save(path)
    assert main(["inspect", str(path)]) == 2
    assert "one of ['of_2', 'of_3']" in capsys.readouterr().err
    assert main(["inspect", str(path), "--output", "of_3", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["num_classes"], figures["removable"]) == (3, 4)
    assert "--output of_3" in figures["next"]


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
