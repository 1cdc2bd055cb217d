import importlib
import json
import re

import keras
import numpy as np
import pytest

from kmod.cli.main import main
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.saving import load
from kmod.data.load import select_classes
from kmod.metrics.evaluate import evaluate

CLASSES = ["--classes", "3,8,9"]
QUICK = ["--epochs", "2", "--batch-size", "16"]


@pytest.mark.long
def test_both_models_are_measured(three_path, digits, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["slim", str(three_path), "--data", "digits", *CLASSES]
    argv += ["--test", "digits:test", "--macs-target", "0.6", "--out", str(out)]
    assert main([*argv, "--epochs", "4", "--batch-size", "16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before, slimmed = found["before"], found["slimmed"]
    assert slimmed["macs"] <= 0.6 * before["macs"]
    assert slimmed["milliseconds"] > 0 < before["milliseconds"]
    model = load(out)
    accuracy = evaluate(model, digits.test, model.class_names).accuracy
    assert slimmed["accuracy"] == pytest.approx(accuracy)
    assert before["accuracy"] - 0.1 < slimmed["accuracy"] > 0.8
    assert set(found["kernels"]) == {"conv_1", "conv_2"}
    assert found["kernels"]["conv_2"]["before"] == 12
    manifest = read_composition_manifest(out)
    assert manifest.name == "source"
    assert manifest.class_names == ("3", "8", "9")
    assert manifest.slimmed == found["learned"]
    assert manifest.metrics["test accuracy"] == {
        "before": before["accuracy"],
        "slimmed": slimmed["accuracy"],
    }
    assert main(["test", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "slimmed from" in capsys.readouterr().out
    form = ["--format", "savedmodel", "--out", str(tmp_path / "served")]
    assert main(["export", str(out), *form]) == 0


def test_few_classes_of_a_composed_model(composed_path, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["slim", str(composed_path), "--data", "digits", *QUICK]
    argv += ["--only", "8", "--only", "7", "--out", str(out)]
    assert main([*argv, "--parameters-target", "0.7"]) == 0
    said = capsys.readouterr()
    assert "kernels of layer" in said.out and "accuracy" not in said.out
    assert "others it answers" in said.err
    assert load(out).class_names == ("8", "7")


def test_layer_that_is_gone_has_no_kernels(tmp_path, capsys):
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, padding="same", name="first")(image)
    x = layers.Concatenate()(
        [
            layers.Conv2D(6, 1, name="cheap")(x),
            layers.Conv2D(6, 7, padding="same", name="costly")(x),
        ]
    )
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(10, activation="softmax")(x))
    model.save(tmp_path / "model.keras")
    argv = ["slim", str(tmp_path / "model.keras"), "--data", "digits", *QUICK]
    argv += ["--macs-target", "0.06", "--out", str(tmp_path / "out"), "--json"]
    assert main([*argv, "--unlabelled"]) == 0
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert kernels["costly"] == {"before": 6, "slimmed": 0}
    assert kernels["cheap"]["slimmed"] > 0 < kernels["first"]["slimmed"]


def test_images_need_no_labels(three_path, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), "uint8")
    np.savez(tmp_path / "noise.npz", images)
    out = tmp_path / "out"
    argv = ["slim", str(three_path), "--data", str(tmp_path / "noise.npz")]
    assert (
        main([*argv, "--unlabelled", *CLASSES, *QUICK, "--out", str(out)]) == 0
    )
    manifest = read_composition_manifest(out)
    assert manifest.class_names == ("3", "8", "9")
    assert manifest.slimmed["num_images"] == 36


def test_whole_model_without_names_is_measured_on_the_classes_kept(
    source, source_path, ten_digits, tmp_path, capsys
):
    photos = tmp_path / "photos.npz"
    np.savez(photos, ten_digits.train.images[:60])
    argv = ["slim", str(source_path), "--data", str(photos), "--unlabelled"]
    argv += [*QUICK, "--only", "3", "--only", "1", "--test", "digits:test"]
    assert main([*argv, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["before"]["accuracy"]
    test = select_classes(ten_digits, ["3", "1"]).test
    scores = source.predict(test.images, verbose=0)[:, [3, 1]]
    assert found == np.mean(scores.argmax(axis=1) == test.labels) > 0.8


@pytest.mark.parametrize(
    "split, names, said",
    [
        ("test", ["3", "8", "9"], "without test images"),
        ("train", ["a", "b", "c"], "images of ['a', 'b', 'c'] for a model"),
        ("train", ["a", "b", "c", "3"], "images of ['a', 'b', 'c'] for a"),
    ],
)
def test_test_data_are_looked_at_before_the_training(
    source_path, tmp_path, capsys, split, names, said
):
    images = np.random.default_rng(0).integers(0, 256, (15, 8, 8), "uint8")
    arrays = {"x_train": images, "y_train": np.arange(15) % 3}
    np.savez(tmp_path / "d.npz", **arrays, class_names=names)
    out = tmp_path / "out"
    argv = ["slim", str(source_path), "--data", "digits", *QUICK]
    argv += ["--test", f"{tmp_path / 'd.npz'}:{split}", "--out", str(out)]
    assert main(argv) == 3
    assert said in capsys.readouterr().err
    assert not (tmp_path / ".out.run").exists()


def test_model_of_one_score_is_measured(digits, tmp_path, capsys):
    data = select_classes(digits, ["3", "8"])
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy")
    model.fit(data.train.images, data.train.labels, epochs=12, verbose=0)
    model.save(tmp_path / "two.keras")
    argv = ["slim", str(tmp_path / "two.keras"), "--data", "digits"]
    argv += ["--classes", "3,8", "--macs-target", "0.8", *QUICK]
    argv += ["--test", "digits:test", "--out", str(tmp_path / "out")]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["before"]["accuracy"]
    assert found == evaluate(model, data.test).accuracy > 0.8


def test_a_split_may_lack_a_class(three_path, ten_digits, tmp_path, caplog):
    """The images to validate on show two of three classes."""
    arrays, names = {}, ["3", "8", "9"]
    for short, split, shown in (
        ("train", "train", names),
        ("val", "validation", names[:2]),
    ):
        labels = [ten_digits.class_names.index(name) for name in names]
        part = getattr(ten_digits, split)
        rows = np.isin(part.labels, labels[: len(shown)])
        arrays[f"x_{short}"] = part.images[rows]
        arrays[f"y_{short}"] = part.labels[rows]
    np.savez(tmp_path / "d.npz", **arrays, class_names=ten_digits.class_names)
    argv = ["slim", str(three_path), "--data", str(tmp_path / "d.npz"), *QUICK]
    argv += [*CLASSES, "--macs-target", "0.8", "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    assert "'d.npz' has no images of ['9'] for validation" in caplog.text
    manifest = read_composition_manifest(tmp_path / "out")
    assert manifest.slimmed["num_labelled"] == len(arrays["x_train"])


@pytest.mark.parametrize("is_scaled", [True, False])
def test_images_alone_are_brought_to_what_the_model_takes(
    tmp_path, capsys, is_scaled
):
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.save(tmp_path / "my model.keras")
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(30):
        image = random.integers(0, 256, (9, 9, 3), "uint8")
        keras.utils.save_img(tmp_path / f"photos/{number}.png", image)
    argv = ["slim", str(tmp_path / "my model.keras"), "--unlabelled", *QUICK]
    argv += ["--data", str(tmp_path / "photos"), "--image-size", "8", "8"]
    argv += ["--value-range", "0", "1"] if is_scaled else []
    out = tmp_path / "out"
    assert main([*argv, "--macs-target", "0.8", "--out", str(out)]) == 0
    taken = read_composition_manifest(out).input
    assert taken.shape == (8, 8, 3)
    assert taken.range == ((0, 1) if is_scaled else (0, 255))
    said = capsys.readouterr().err
    assert ("such as `--value-range 0 1`" in said) != is_scaled


@pytest.mark.long
def test_run_cut_short_goes_on(three_path, tmp_path, capsys, monkeypatch):
    module = importlib.import_module("kmod.slimming.slim")
    genuine, seeds = module.remove_kernels, []

    def interrupted(*given):
        seeds.append(given[3])
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return genuine(*given)

    monkeypatch.setattr(module, "remove_kernels", interrupted)
    out, run = tmp_path / "out", tmp_path / ".out.run"
    argv = ["slim", str(three_path), "--data", "digits", *CLASSES]
    argv += ["--epochs", "4", "--batch-size", "32", "--out", str(out)]
    assert main(argv) == 130
    assert f"'{run}': the same command with `--resume`" in (
        capsys.readouterr().err
    )
    assert main([*argv, "--resume"]) == 0
    assert "has no run to go on with" not in capsys.readouterr().err
    assert seeds == [1, 2, 2]  # The first removal was not made again.
    assert not run.exists() and load(out).class_names == ("3", "8", "9")


@pytest.mark.parametrize(
    "changes, exit_code, message",
    [
        (["--macs-target", "1.5"], 2, "`--macs-target` must be above 0 and"),
        (["--macs-target", "1e-4"], 2, "`--macs-target` must be what removal"),
        (["--only", "3"], 2, r"`--only` must name two or more .*\['3'\]"),
        (["--data", "nothing/"], 3, "Received: 'nothing/'"),
    ],
    ids=["target", "reach", "only", "data"],
)
def test_what_can_not_be_slimmed(
    three_path, tmp_path, capsys, changes, exit_code, message
):
    out = tmp_path / "out"
    argv = ["slim", str(three_path), "--data", "digits", *CLASSES, *changes]
    assert main([*argv, "--out", str(out)]) == exit_code
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()
