import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from kmod.cli.main import main
from kmod.composition.exporting import load_exportable
from kmod.export import litert
from kmod.files.plain_yaml import read_yaml


@pytest.fixture
def export(tmp_path, capsys):
    """Runs the command and returns the path it prints."""

    def run(model, form, *options, out="out"):
        out = tmp_path / out
        argv = ["export", str(model), "--format", form, "--out", str(out)]
        assert main([*argv, "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["path"]

    return run


def served(path, images):
    loaded = tf.saved_model.load(str(path))
    return {k: v.numpy() for k, v in loaded.serve(images).items()}


def test_composed_model_as_a_savedmodel(composed_path, ten_digits, export):
    path = export(composed_path, "savedmodel")
    images = ten_digits.test.images[:9].astype("float32")
    answers = served(path, images)
    expected = load_exportable(composed_path).model.predict(images, verbose=0)
    np.testing.assert_allclose(
        answers["probabilities"], expected, rtol=0, atol=1e-5
    )
    names = [("7", "1", "8")[index].encode() for index in expected.argmax(1)]
    assert answers["class_name"].tolist() == names
    with open(f"{path}/export.yaml", encoding="utf-8") as file:
        manifest = yaml.safe_load(file)
    assert manifest["class_names"] == ["7", "1", "8"]
    assert manifest["input"]["range"] == [0.0, 255.0]
    assert "saved_model.pb" in manifest["files"]


def test_module_of_a_store(store, ten_digits, export):
    path = export(store.path / "8", "savedmodel")
    images = ten_digits.test.images[:9].astype("float32")
    expected = store["8"].model.predict(images, verbose=0)
    np.testing.assert_allclose(
        served(path, images)["score"], expected, rtol=0, atol=1e-5
    )


def test_keras_file_on_given_images(source_path, export):
    path = export(source_path, "litert", "--data", "digits:validation")
    labels = open(f"{path}/labels.txt").read().split()
    assert labels == list("0123456789")


def test_keras_file_of_values_from_0_to_1(saved, tmp_path, capsys):
    image = keras.Input((8, 8, 1))
    scores = keras.layers.Dense(10)(keras.layers.Flatten()(image))
    path = saved(keras.Model(image, scores), "small")
    argv = ["export", str(path), "--format", "litert", "--out"]
    assert main([*argv, str(tmp_path / "a")]) == 0
    assert "does not scale them itself" in capsys.readouterr().err
    argv += [str(tmp_path / "b"), "--data", "digits:train"]
    argv += ["--quantize", "int8", "--value-range", "0", "1"]
    assert main(argv) == 0
    assert "scale" not in capsys.readouterr().err
    assert read_yaml(tmp_path / "b/export.yaml")["input"]["range"] == [0, 1]


@pytest.mark.parametrize(
    ("quantize", "most"), [("int8", 0.6), ("float16", 0.8), ("dynamic", 0.8)]
)
def test_fewer_bits(composed_path, ten_digits, export, quantize, most):
    options = ["--data", "digits:train", "--quantize", quantize]
    path = export(composed_path, "litert", *options)
    found = read_yaml(Path(path) / "export.yaml")["quantized"]
    assert found["agreement"] > 0.98
    assert found["bytes"]["quantized"] < most * found["bytes"]["float32"]
    file = Path(path) / "model.tflite"
    assert file.stat().st_size == found["bytes"]["quantized"]
    images = ten_digits.test.images[:50].astype("float32")
    answered = litert.predict(file, images)["probabilities"]
    model = load_exportable(composed_path).model
    expected = model.predict(images, verbose=0)
    assert np.mean(answered.argmax(1) == expected.argmax(1)) > 0.95
    np.testing.assert_allclose(answered, expected, atol=0.15)


def test_serving_versions_count_on(composed_path, export, tmp_path):
    (tmp_path / "out" / "7").mkdir(parents=True)
    (tmp_path / "out" / "notes").mkdir()
    for version in ("8", "9"):
        path = export(composed_path, "savedmodel", "--serving")
        assert path == str(tmp_path / "out" / version)
        assert (tmp_path / "out" / version / "saved_model.pb").is_file()
    found = sorted(entry.name for entry in (tmp_path / "out").iterdir())
    assert found == ["7", "8", "9", "notes"]


def test_existing_export(composed_path, export, tmp_path, capsys):
    export(composed_path, "savedmodel")
    argv = ["export", str(composed_path), "--format", "savedmodel"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 2
    assert "must be new or empty" in capsys.readouterr().err
    export(composed_path, "savedmodel", "--overwrite")


@pytest.mark.parametrize(
    ("model", "form", "options", "exit_code", "message"),
    [
        ("nowhere.keras", "onnx", [], 3, "which does not exist"),
        (".", "onnx", [], 3, "A module is a directory with the file"),
        (None, "litert", ["--serving"], 2, "Serving takes SavedModels"),
        (None, "litert", ["--data", "digits"], 2, "named NAME:SPLIT"),
        (None, "litert", ["--quantize", "int8"], 2, "without --data"),
        (None, "onnx", ["--output", "age"], 2, "one of ['classes']"),
        (
            *(None, "litert"),
            ["--quantize", "int8", "--data", "digits:train"]
            + ["--least-agreement", "98"],
            2,
            "`--least-agreement` must be a share, 0 to 1.",
        ),
        (
            *(None, "onnx"),
            ["--quantize", "int8", "--data", "digits:train"],
            2,
            "LiteRT files are quantized. Received: --quantize 'int8'",
        ),
    ],
)
def test_exit_codes(
    source_path, tmp_path, capsys, model, form, options, exit_code, message
):
    model = source_path if model is None else tmp_path / model
    argv = ["export", str(model), "--format", form]
    assert main([*argv, "--out", str(tmp_path / "o"), *options]) == exit_code
    out, err = capsys.readouterr()
    assert out == "" and message in err
    assert not (tmp_path / "o").exists()
