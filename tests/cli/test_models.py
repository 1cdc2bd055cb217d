"""Models, and images of one's own, on the way through the commands."""

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from kmod.cli.main import main
from kmod.cli.models import are_learned_from
from kmod.cli.models import check_out
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.metrics.evaluate import evaluate
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import load_spec


@pytest.fixture(scope="module")
def photos(ten_digits, tmp_path_factory):
    """A folder of the digits, and an .npz file of them beside it."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    arrays = {}
    counts = {"train": 200, "validation": 288, "test": 360}
    for split, count in counts.items():
        part = getattr(ten_digits, split).take(np.arange(count))
        arrays |= {f"x_{split}": part.images, f"y_{split}": part.labels}
        for name in ten_digits.class_names:
            (folder / split / name).mkdir(parents=True)
        for index, (image, label) in enumerate(zip(part.images, part.labels)):
            path = folder / split / str(label) / f"{index}.png"
            keras.utils.save_img(path, image, scale=False)
    np.savez(folder.with_suffix(".npz"), **arrays)
    return folder


def run(capsys, *argv):
    code = main([*map(str, argv), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_folder_and_file_are_measured_as_the_data_set(
    source_path, composed_path, photos, capsys, suffix
):
    own = f"{photos.with_suffix(suffix)}:test"
    for model in (source_path, composed_path):
        figures = [
            run(capsys, "evaluate", model, "--data", data)
            for data in (own, "digits:test")
        ]
        assert figures[0] == figures[1]
        assert figures[0][0] == 0


def test_images_take_the_size_and_colours_of_the_model(
    photos, tmp_path, capsys
):
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    model.save(tmp_path / "any.keras")
    argv = "evaluate", tmp_path / "any.keras", "--data", f"{photos}:test"
    code, figures = run(capsys, *argv, "--image-size", 8, 8)
    assert code == 0
    read = keras.utils.image_dataset_from_directory(
        photos / "test", image_size=(8, 8), verbose=False
    )
    assert figures["accuracy"] == evaluate(model, read).accuracy
    assert main([*map(str, argv)]) == 2
    assert "--image-size HEIGHT WIDTH" in capsys.readouterr().err


def test_model_of_some_classes_in_its_own_order(
    source, source_path, photos, tmp_path, capsys
):
    """A model that answers 7 and 1 of ten digits, in this order."""
    image = keras.Input((8, 8, 1))
    output = keras.ops.take(source(image), [7, 1], axis=1)
    keras.Model(image, output).save(tmp_path / "two.keras")
    argv = "evaluate", tmp_path / "two.keras", "--data", f"{photos}:test"
    code, figures = run(capsys, *argv, "--classes", "7,1")
    assert (code, list(figures["classes"])) == (0, ["7", "1"])
    assert figures["accuracy"] > 0.9
    assert main([*map(str, argv)]) == 3
    error = capsys.readouterr().err
    assert "10 in 'photos'. Received: an output of shape (None, 2)" in error
    assert "Give `--classes`" in error
    argv = ["modularize", source_path, "--data", photos, "--classes", "7,1"]
    assert main([*map(str, argv), "--out", str(tmp_path / "store")]) == 3
    assert "Give `--classes`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["modularize", "SOURCE", "--data", "digits"],
        ["import", "SOURCE", "--data", "digits"],
        ["refine", "STORE", "SOURCE", "--data", "digits"],
        ["demo"],
    ],
)
def test_backends_that_write_no_stores_are_refused_before_any_work(
    source_path, store, tmp_path, capsys, monkeypatch, argv
):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for name in ("cli.models.load_model", "demo.pipeline.run_demo"):
        monkeypatch.setattr(f"kmod.{name}", None)  # What works begins here.
    paths = {"SOURCE": str(source_path), "STORE": str(store.path)}
    argv = [paths.get(word, word) for word in argv]
    assert main([*argv, "--out", str(tmp_path / "new")]) == 2
    assert "Received: backend='jax'" in capsys.readouterr().err


@pytest.mark.long
def test_store_reproduces_its_figures_on_a_folder(
    three_path, photos, tmp_path, capsys, caplog
):
    out = tmp_path / "store"
    (photos / "train" / "3" / "notes.txt").write_text("no image")
    argv = ["modularize", three_path, "--data", photos, "--classes", "3,8,9"]
    argv += [
        "--frozen",
        "--out",
        out,
        "--epochs",
        1,
        "--batch-size",
        100,
        "--mask-from",
        "conv_2",
    ]
    code, _ = run(capsys, *argv, "--retention-target", 0.5)
    (photos / "train" / "3" / "notes.txt").unlink()
    assert code == 0
    assert "left out 1 of 256 files" in caplog.text
    manifest = load_store(out).manifest
    assert manifest.class_names == ("3", "8", "9")
    assert manifest.data["name"] == "photos"
    assert manifest.data["path"] == os.path.relpath(photos, out)
    code, results = run(capsys, "test", out)
    assert not [each for each in results if each["outcome"] != "passed"]
    assert code == 0
    assert "accuracy" in " ".join(each["test"] for each in results)


@pytest.mark.long
def test_spec_of_a_choice_finds_the_folder(store, photos, tmp_path, capsys):
    path, out = tmp_path / "specs" / "two.yaml", tmp_path / "model"
    path.parent.mkdir()
    argv = ["choose", "--class", "7", "--class", "1", "--store", store.path]
    argv += ["--data", f"{photos}:validation", "--out", path]
    code, _ = run(capsys, *argv)
    assert code == 0
    (data,) = load_spec(path).scores.data
    assert (data.name, data.split) == (photos, "validation")
    text = path.read_text().replace("name: two", "name: own")
    relative = os.path.relpath(photos, path.parent)
    checks = (
        "checks:\n- {metric: accuracy, min: 0.5, "
        f"data: {{path: {relative}, split: test}}}}\n"
    )
    own = path.with_name("own.yaml")
    own.write_text(text + checks)
    code, _ = run(capsys, "compose", own, "--out", out, "--format", "keras")
    assert code == 0
    (check,) = read_composition_manifest(out).metrics["checks"]
    assert check["data"] == "photos:test"
    code, results = run(capsys, "test", out)
    assert code == 0
    assert results[-1]["test"] == "accuracy on photos:test"
    assert results[-1]["outcome"] == "passed"


@pytest.mark.long
def test_patch_is_fitted_and_measured_on_a_folder(
    weak_path, store, photos, tmp_path, capsys
):
    argv = ["patch", weak_path, "--donor", store.path, "--target-class", "8"]
    argv += ["--no-auxiliary"]
    figures = [
        run(capsys, *argv, "--data", data, "--out", tmp_path / str(number))[1]
        for number, data in enumerate(
            [f"{photos}:validation", "digits:validation"]
        )
    ]
    # The order of images decides the folds, so what is fitted is another.
    assert figures[0]["before"] == figures[1]["before"]
    for each in figures:
        assert each["after"]["f1"] > 0.8


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("evaluate no.keras --data ./photos:test", []),
        ("modularize no.keras --data ./photos", ["--out"]),
        ("refine none no.keras --data ./photos", ["--out"]),
        ("patch no.keras --data ./photos:validation --donor s", ["--out"]),
    ],
)
def test_path_is_checked_before_the_model(tmp_path, capsys, command, more):
    argv = command.split() + [*more, *[str(tmp_path / "out")] * len(more)]
    assert main(argv) == 3
    assert "'./photos', which is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("test", "data", "splits", "expected"),
    [
        ("digits:train", "digits", None, True),
        ("digits:test", "digits", None, False),
        ("digits:test", "digits", ["train"], False),
        ("digits:train", "digits", ["train"], True),
        ("digits:train", "mnist", ["train"], False),
        ("own:test", "own", None, True),
        ("own:test", "./own", None, True),
        ("own:test", "./own", ["train"], False),
        ("./own:train", "../here/own", ["train"], True),
    ],
)
def test_images_that_are_learned_from(
    tmp_path, monkeypatch, test, data, splits, expected
):
    (tmp_path / "here/own").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert are_learned_from(test, data, splits, None) is expected


def test_empty_directory_may_be_made(tmp_path):
    assert check_out(tmp_path, False, lambda path: {}) == tmp_path


def test_function_is_no_data_of_a_spec(store, tmp_path, capsys):
    argv = ["choose", "--class", "7", "--class", "1", "--store", store.path]
    argv += ["--data", "photos:load:validation", "--out", tmp_path / "a.yaml"]
    assert main([*map(str, argv)]) == 3
    assert "as an .npz file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("MobileNet(w) + Dense(3)", "named arguments of plain values"),
        ("MobileNet(weights='w')(4)", "named arguments of plain values"),
        ("MobileNet('w', classes=4)", "named arguments of plain values"),
        ("MobileNet(weights=open('w'))", "named arguments of plain values"),
        ("MobileNet(weights={[]: 1})", "named arguments of plain values"),
        ("MobileNet(**w)", "named arguments of plain values"),
        ("MobileNet(weights='nowhere')", "which is no file"),
        ("MobileNets(weights='w')", "is one of `keras.applications`"),
        ("MobileNet(weights='w', colour=3)", "network that is called"),
        ("MobileNet(weights='w', classes=4)", "network that is called"),
    ],
)
def test_call_that_can_not_be_built_is_named(
    tmp_path, monkeypatch, capsys, call, message
):
    monkeypatch.chdir(tmp_path)
    Path("w").write_text("no weights")
    assert main(["inspect", call]) in (2, 3)
    assert message in " ".join(capsys.readouterr().err.split())
