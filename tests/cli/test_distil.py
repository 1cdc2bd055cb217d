import json
import re

import keras
import numpy as np
import pytest

from kmod.cli.main import main
from kmod.composition.composition_manifest import read_composition_manifest


@pytest.fixture(scope="module")
def student_path(saved):
    """A small network of three classes that knows nothing."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]
    return saved(keras.Sequential(layers, name="own"), "student")


@pytest.fixture(scope="module")
def command(composed_path, student_path, tmp_path_factory):
    """What the command is given, but for `--out` and its value."""
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), "uint8")
    noise = tmp_path_factory.mktemp("noise") / "noise.npz"
    np.savez(noise, images)
    return [
        *("distil", str(composed_path.parent / "spec.yaml")),
        *("--data", "digits", "--data", str(noise)),
        *("--student", str(student_path)),
    ]


@pytest.mark.long
def test_student_is_measured_beside_its_composition(command, tmp_path, capsys):
    out = tmp_path / "out"
    test = ["--test", "digits:test", "--epochs", "12", "--batch-size", "16"]
    assert main([*command, "--out", str(out), *test, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    student, composition = found["student"], found["composition"]
    assert student["accuracy"] > 0.8 < composition["accuracy"]
    assert student["parameters"] == 80 + 288 * 3 + 3
    assert student["milliseconds"] > 0 < composition["macs"]
    manifest = read_composition_manifest(out)
    assert manifest.student == found["learned"]
    assert manifest.student["data"] == "digits, noise.npz"
    assert manifest.student["num_images"] == 1149 + 20 - 117
    assert manifest.metrics["test accuracy"] == {
        "composition": composition["accuracy"],
        "student": student["accuracy"],
    }
    assert main(["evaluate", str(out), "--data", "digits:test"]) == 0
    assert f"accuracy {student['accuracy']:.4f}" in capsys.readouterr().out


def test_directory_of_a_composed_model_is_taken(
    command, composed_path, tmp_path, capsys
):
    out = tmp_path / "out"
    given = ["distil", str(composed_path), *command[2:], "--out", str(out)]
    assert main([*given, "--epochs", "1", "--limit", "60"]) == 0
    said = capsys.readouterr()
    assert "ms for one image" in said.out
    assert "accuracy" not in said.out
    assert "student (own) learned from 72 images; of 8 others" in said.err
    assert main(["test", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "one network (own), distilled from" in capsys.readouterr().out
    exported = ["--format", "savedmodel", "--out", str(tmp_path / "served")]
    assert main(["export", str(out), *exported]) == 0


@pytest.mark.parametrize(
    "changes, exit_code, message",
    [
        (["--test", "digits:train"], 2, "--data digits --test digits:train"),
        (
            ["--data", "digits:test", "--test", "digits:test"],
            2,
            "--data digits:test --test digits:test. Give `--data digits:train`",
        ),
        (["--data", "nothing/"], 3, "Received: 'nothing/'"),
        (["--student", "tiny"], 2, "`--student` must be 'small', one of"),
        (["--student", "tiny.keras"], 3, "'tiny.keras', which does not exist"),
        (["--limit", "1"], 2, "20 images or more.*Received: 2 images"),
    ],
    ids=["train", "split", "data", "student", "file", "few"],
)
def test_what_can_not_be_distilled(
    command, tmp_path, capsys, changes, exit_code, message
):
    out = tmp_path / "out"
    assert main([*command, "--out", str(out), *changes]) == exit_code
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()
