import contextlib
import io
import json

import keras
import numpy as np
import pytest
from sklearn import metrics

from kmod.cli.main import main
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.saving import load
from kmod.metrics.evaluate import evaluate
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.spec.spec_file import load_spec

CLASSES = ["--classes", "3,8,9"]


@pytest.fixture(scope="module")
def weak_path(three, blind, saved):
    """The model of three digits, but blind to the digit 8."""
    return saved(blind(three, 1), "weak")


@pytest.fixture(scope="module")
def store(three, digits, store_of):
    return store_of(three, digits.class_names)


def patch_argv(weak, store, out, *more, data="digits:validation"):
    paths = ["--donor", str(store.path), "--out", str(out)]
    return ["patch", str(weak), *paths, "--data", data, *CLASSES, *more]


def run_quietly(argv):
    """Returns what a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(argv) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def patched(weak_path, store, tmp_path_factory):
    """Directory of the patched model, and the figures that were printed."""
    out = tmp_path_factory.mktemp("patched") / "patched"
    argv = patch_argv(weak_path, store, out, "--json")
    return out, json.loads(run_quietly(argv))


@pytest.fixture(scope="module")
def told(weak_path, store, tmp_path_factory):
    """Directory of the patched model, and what people read."""
    out = tmp_path_factory.mktemp("told") / "patched"
    argv = patch_argv(weak_path, store, out, "--target-class", "8")
    return out, run_quietly(argv)


@pytest.mark.long
def test_patch_finds_the_weak_class(patched, digits):
    out, figures = patched
    figures = dict(figures)
    assert figures["target_class"] == "8"
    assert figures["before"]["f1"] == 0
    assert figures["after"]["f1"] > 0.5
    model = load(out)
    after = evaluate(model, digits.test, model.class_names)
    assert figures["after"]["f1"] == pytest.approx(after.f1[1])
    others = figures["other_classes_accuracy"]["after"]
    assert others == pytest.approx(after.other_classes_accuracy[1])
    ways = {way["name"]: way for way in figures.pop("ways")}
    assert next(iter(ways)) == "patched"
    assert ways["patched"]["f1"] == pytest.approx(after.f1[1])
    assert ways["weak model"]["f1"] == 0
    assert ways["weak model"]["accuracy"] == figures["accuracy"]["before"]
    assert ways["weak model"]["macs"] < ways["patched"]["macs"]
    assert {"bias moved", "regression on both", "donor instead"} <= set(ways)
    tried = figures.pop("tried")
    assert [each["class"] for each in tried] == ["8"] * 3
    assert sorted(len(each["auxiliary"]) for each in tried) == [0, 2, 2]
    metrics = read_composition_manifest(out).metrics
    assert metrics["test"] == figures
    assert [row["name"] for row in metrics["ways"]] == list(ways)
    for row in metrics["ways"]:  # But for how long each took.
        assert row.items() < ways[row["name"]].items()


@pytest.mark.long
@pytest.mark.parametrize("way", ["bias-moved", "donor-instead"])
def test_what_needs_no_patch_can_be_taken(
    weak_path, store, digits, tmp_path, capsys, way
):
    out = tmp_path / "taken"
    argv = patch_argv(weak_path, store, out, "--take", way, "--json")
    assert main(argv) == 0
    figures = json.loads(capsys.readouterr().out)
    (row,) = (each for each in figures["ways"] if each["key"] == way)
    taken = evaluate(load(out), digits.test, digits.class_names)
    assert taken.accuracy == pytest.approx(row["accuracy"])
    manifest = read_composition_manifest(out)
    assert manifest.metrics["test"].items() < row.items()
    assert manifest.metrics["test"] in manifest.metrics["ways"]
    assert manifest.sizes["macs"] == row["macs"]
    stores = {each["store"] for each in manifest.sources}
    uses_donor = way == "donor-instead"
    assert stores == ({store.digest} if uses_donor else {None})
    assert [each["class"] for each in manifest.sources] == ["3", "8", "9"]
    card = (out / "README.md").read_text()
    assert ("made from a model of the user's" in card) is not uses_donor
    assert main(["test", str(out)]) == 0


def test_way_that_is_not_there_is_not_taken(weak_path, store, tmp_path, capsys):
    out = tmp_path / "taken"
    assert main(patch_argv(weak_path, store, out, "--take", "luck")) == 2
    error = capsys.readouterr().err
    assert "one of ['weak-model', 'bias-moved'" in error
    assert not out.exists()


def test_directory_composes_again(told, tmp_path):
    out, text = told
    assert text.startswith("class 8, on test images ")
    assert text.splitlines()[2].split()[:2] == ["precision", "0.0000"]
    spec = load_spec(out / "spec.yaml")
    assert spec.base.path == out / "weak.keras"
    assert len(spec.patches[0].layer.module) == 3
    argv = ["compose", str(out / "spec.yaml"), "--out", str(tmp_path / "x")]
    assert main([*argv, "--format", "keras"]) == 0
    keras.models.load_model(tmp_path / "x" / "model.keras", safe_mode=True)


def test_printed_table_is_right(weak_path, told, digits):
    out, text = told
    lines = text.splitlines()
    shown = [*lines[2:6], *lines[8:10]]
    rows = [line.strip().rsplit(maxsplit=6) for line in shown]
    printed = {name: figures[:2] for name, *figures in rows}
    labels = digits.test.labels
    for column, path in enumerate((weak_path, out / "model.keras")):
        model = keras.models.load_model(path)
        answers = model.predict(digits.test.images, verbose=0).argmax(axis=1)
        own, taken = labels == 1, answers == 1
        expected = {
            "precision": metrics.precision_score(own, taken, zero_division=0),
            "recall": metrics.recall_score(own, taken),
            "F1": metrics.f1_score(own, taken),
            "others' accuracy": metrics.accuracy_score(
                labels[~own], answers[~own]
            ),
        }
        overall = {
            "accuracy over all": metrics.accuracy_score(labels, answers),
            "mean F1": metrics.f1_score(
                labels, answers, average="macro", zero_division=0
            ),
        }
        for name, value in (expected | overall).items():
            assert printed[name][column] == f"{value:.4f}"


def test_best_of_two_donors_is_taken(
    weak_path, store, poor_store, tmp_path, capsys
):
    out = tmp_path / "patched"
    more = ["--donor", str(poor_store.path), "--no-auxiliary", "--json"]
    assert main(patch_argv(weak_path, store, out, *more)) == 0
    tried = json.loads(capsys.readouterr().out)["tried"]
    assert [each["auxiliary"] for each in tried] == [[], []]
    sums = [
        each["after"]["f1"] + each["after"]["other_classes_accuracy"]
        for each in tried
    ]
    assert sums == sorted(sums, reverse=True)
    assert {each["store"] for each in tried} == {
        str(store.path),
        str(poor_store.path),
    }
    (used,) = load_spec(out / "spec.yaml").stores.values()
    assert str(used.path) == tried[0]["store"]


def test_class_of_another_name(weak_path, named_store, tmp_path, capsys):
    argv = ["patch", str(weak_path), "--donor", f"{named_store.path}:eight"]
    argv += ["--data", "digits:validation", "--out", str(tmp_path / "x")]
    argv += CLASSES
    assert main(argv) == 2
    assert "names the module for one target" in capsys.readouterr().err
    assert main([*argv, "--target-class", "8", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {each["class"] for each in figures["tried"]} == {"eight"}
    assert figures["target_class"] == "8"
    assert figures["after"]["f1"] > 0.5 > figures["before"]["f1"] == 0
    (patch,) = load_spec(tmp_path / "x" / "spec.yaml").patches
    assert (patch.class_name, patch.module.class_name) == ("8", "eight")


@pytest.fixture(scope="module")
def poor_store(three, digits, store_of):
    """A store of a model that knows nothing."""
    keras.utils.set_random_seed(1)
    new = keras.models.clone_model(three)
    return store_of(new, digits.class_names)


@pytest.fixture(scope="module")
def named_store(three, store_of):
    """A store of the same modules by other names."""
    return store_of(three, ["three", "eight", "nine"])


@pytest.fixture(scope="module")
def other_store(three, digits, tmp_path_factory):
    """A store of the same modules for images from 0 to 1."""
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, three(keras.layers.Rescaling(255.0)(image)))
    modular = ModularModel(model, digits.class_names)
    path = tmp_path_factory.mktemp("other") / "store"
    return decompose(modular, path, value_range=(0.0, 1.0))


@pytest.mark.long
def test_donor_may_take_other_images(
    patched, weak_path, other_store, tmp_path, capsys
):
    out, expected = patched
    argv = patch_argv(weak_path, other_store, tmp_path / "other", "--json")
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["after"]["f1"] == pytest.approx(
        expected["after"]["f1"], abs=0.02
    )
    spec = load_spec(tmp_path / "other" / "spec.yaml")
    assert spec.input.range == (0.0, 255.0)
    assert load_spec(out / "spec.yaml").input is None


def test_rule_is_in_the_spec(weak_path, store, tmp_path):
    out = tmp_path / "patched"
    argv = patch_argv(weak_path, store, out, "--combine", "minmax")
    assert main(argv) == 0
    (patch,) = load_spec(out / "spec.yaml").patches
    assert (patch.combine, patch.layer) == ("minmax", None)
    assert patch.range[0] < patch.range[1]
    # Its scores may be above 1.
    checks = read_composition_manifest(out).contract["checks"]
    assert [line["metric"] for line in checks] == ["exactness"]


@pytest.mark.parametrize("more", [[], ["--target-class", "8"]])
def test_test_images_must_show_the_class(
    weak_path, store, digits, tmp_path, capsys, more
):
    arrays = {}
    for short, split in {"train": "train", "test": "test"}.items():
        part = getattr(digits, split)
        rows = slice(None) if short == "train" else part.labels != 1
        arrays[f"x_{short}"] = part.images[rows]
        arrays[f"y_{short}"] = part.labels[rows]
    path = tmp_path / "d.npz"
    np.savez(path, **arrays, class_names=digits.class_names)
    out = tmp_path / "out"
    argv = patch_argv(weak_path, store, out, *more, data=f"{path}:train")
    assert main(argv) == 3
    assert "test images of 'd.npz' without any of ['8']" in (
        capsys.readouterr().err
    )
    assert not out.exists()


def test_patch_without_gain_exits_5(three_path, store, tmp_path, capsys):
    out = tmp_path / "patched"
    argv = patch_argv(three_path, store, out, "--target-class", "3")
    assert main([*argv, "--no-auxiliary"]) == 5
    text, message = capsys.readouterr()
    assert text == ""
    assert "must raise the F1" in message
    assert not out.exists()


def test_way_is_taken_where_no_module_helps(
    three_path, store, tmp_path, capsys
):
    out = tmp_path / "taken"
    argv = patch_argv(three_path, store, out, "--target-class", "3")
    argv += ["--no-auxiliary", "--take", "bias-moved"]
    assert main(argv) == 0
    text, said = capsys.readouterr()
    assert "what needs no patch, on test images" in text
    assert "No module helps" in said
    assert "Saved 'bias-moved'" in said
    metrics = read_composition_manifest(out).metrics
    names = [row["name"] for row in metrics["ways"]]
    assert names[:2] == ["weak model", "bias moved"]
    assert metrics["test"] == metrics["ways"][1]
    assert main(["test", str(out)]) == 0


@pytest.mark.parametrize(
    ("more", "data", "exit_code", "message"),
    [
        (
            ["--target-class", "1"],
            "digits:validation",
            2,
            "`--target-class` must be one of ['3', '8', '9']. Received: "
            "--target-class '1'.",
        ),
        ([], "digits:test", 2, "because the test images measure it"),
        (["--donor", "x"], "digits:validation", 3, "A module store is"),
        ([], "digits", 2, "Data are named NAME:SPLIT"),
    ],
)
def test_wrong_usage(
    weak_path, store, tmp_path, capsys, more, data, exit_code, message
):
    argv = patch_argv(weak_path, store, tmp_path / "out", *more, data=data)
    assert main(argv) == exit_code
    assert message in capsys.readouterr().err


def test_existing_output_is_refused_first(weak_path, store, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("dear")
    assert main(patch_argv(weak_path, store, tmp_path)) == 2
    assert "must be new or empty" in capsys.readouterr().err


def test_published_rules_are_not_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["patch", "--help"])
    text = capsys.readouterr().out
    assert "--no-auxiliary" in text
    assert "--combine" not in text and "minmax" not in text
