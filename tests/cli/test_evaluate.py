import dataclasses
import json

import keras
import numpy as np
import pytest

from kmod.cli import models
from kmod.cli.main import main
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.saving import load
from kmod.data.subsets import class_subset
from kmod.metrics.evaluate import confusions
from kmod.metrics.evaluate import evaluate
from kmod.metrics.evaluate import worst_confusion


def test_keras_file(source, source_path, ten_digits, capsys):
    argv = ["evaluate", str(source_path), "--data", "digits:test"]
    assert main([*argv, "--json"]) == 0
    expected = evaluate(source, ten_digits.test, ten_digits.class_names)
    figures = json.loads(capsys.readouterr().out)
    found = figures.pop("confusions")
    assert figures == expected.as_dict()
    assert found == confusions(expected)
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "0",
        f"{expected.precision[0]:.4f}",
        f"{expected.recall[0]:.4f}",
        f"{expected.f1[0]:.4f}",
        str(expected.support[0]),
        *worst_confusion(expected, "0").split(),
    ]
    assert lines[-1] == f"accuracy {expected.accuracy:.4f}"


def test_composed_model_sees_its_own_classes(composed_path, ten_digits, capsys):
    argv = ["evaluate", str(composed_path), "--data", "digits:test", "--json"]
    assert main(argv) == 0
    figures = json.loads(capsys.readouterr().out)
    model = load(composed_path)
    images = class_subset(ten_digits.test, [7, 1, 8])
    assert figures["accuracy"] == evaluate(model, images).accuracy > 0.6
    assert list(figures["classes"]) == ["7", "1", "8"]


def test_unseen_images_are_told_from_its_own(
    composed_path, source_path, tmp_path, capsys
):
    noise = np.random.default_rng(0).uniform(0, 255, (60, 8, 8, 1))
    np.savez(tmp_path / "noise.npz", images=noise.astype("uint8"))
    unseen = [
        "--unseen",
        str(tmp_path / "noise.npz"),
        "--unseen",
        "digits:test",
    ]
    for path in (composed_path, source_path):
        argv = ["evaluate", str(path), "--data", "digits:test", *unseen]
        assert main([*argv, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["auroc_of_unseen"]
        assert list(found) == unseen[1::2]
        assert found[unseen[1]] > 0.8
        assert 0.3 < found["digits:test"] < 0.95
    assert found["digits:test"] == pytest.approx(0.5)
    assert main(argv) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("AUROC against digits:test 0.5")


@pytest.mark.parametrize(
    ("model", "data", "exit_code", "message"),
    [
        ("nowhere.keras", "digits:test", 3, "which does not exist"),
        ("nowhere.keras", "digits:tset", 2, "Data are named NAME:SPLIT"),
        (".", "digits:test", 3, "A composed model is a directory"),
    ],
)
def test_exit_codes(
    tmp_path, monkeypatch, capsys, model, data, exit_code, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", model, "--data", data]) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def build_model(shape=(8, 8, 1), num_classes=10):
    image = keras.Input(shape)
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, keras.layers.Dense(num_classes)(flat))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"shape": (9, 8, 1)}, r"images of shape \(9, 8, 1\)", id="shape"
        ),
        pytest.param(
            {"num_classes": 3}, r"10 in 'digits'. Received", id="number"
        ),
    ],
)
def test_images_must_fit(ten_digits, changes, message):
    with pytest.raises(models.ArtifactError, match=message):
        models.images_for(build_model(**changes), ten_digits, "test")


def test_images_of_a_composed_model(ten_digits, composed_path):
    manifest = read_composition_manifest(composed_path)
    images = reader_of_manifest(manifest).read(ten_digits, "test")
    counts = np.bincount(ten_digits.test.labels)
    assert np.bincount(images.labels).tolist() == counts[[7, 1, 8]].tolist()
    manifest = dataclasses.replace(manifest, other="8")
    images = reader_of_manifest(manifest).read(ten_digits, "test")
    assert len(images) == len(ten_digits.test)
    assert (
        np.sum(images.labels == 2)
        == len(ten_digits.test) - counts[[7, 1]].sum()
    )


def test_images_of_another_range_are_adapted(ten_digits, composed_path):
    manifest = read_composition_manifest(composed_path)
    data = dataclasses.replace(ten_digits, value_range=(0.0, 510.0))
    halved = reader_of_manifest(manifest).read(data, "test").images
    whole = reader_of_manifest(manifest).read(ten_digits, "test").images
    np.testing.assert_allclose(halved, whole / 2, atol=1e-4)
