import dataclasses
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import kmod
from kmod.cli import compose
from kmod.cli.main import main
from kmod.composition import composer
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.saving import DEFAULT_FORMATS
from kmod.composition.saving import load
from kmod.data.subsets import class_subset
from kmod.export.write import FORMS
from kmod.spec.spec_file import load_spec
from kmod.spec.spec_file import write_spec

SPEC = """\
version: 1
name: two
stores: {digits: {path: PATH}}
classes:
  - {name: one, module: {store: digits, class: 1}}
  - {name: eight, module: {store: digits, class: 8}}
"""


@pytest.fixture
def spec_path(store):
    path = store.path.parent / "spec.yaml"
    path.write_text(SPEC.replace("PATH", store.path.name))
    return path


def test_compose(spec_path, tmp_path, capsys):
    out = tmp_path / "two"
    assert main(["compose", str(spec_path), "--out", str(out)]) == 0
    text, messages = capsys.readouterr()
    lines = text.splitlines()
    assert lines[1].split()[:4] == ["one", "digits:", "1", "100.0%"]
    assert [line.split()[0] for line in lines[1:]] == [
        "one",
        "eight",
        "all",
        "estimate",
        "composed",
        "store",
        "digits",
    ]
    assert messages == f"Saved to '{out}'.\n"
    assert load(out).class_names == ("one", "eight")
    assert load_spec(out / "spec.yaml").class_names == ("one", "eight")


def test_json_and_format(spec_path, store, tmp_path, capsys):
    out = tmp_path / "two"
    argv = ["compose", str(spec_path), "--out", str(out)]
    assert main([*argv, "--format", "keras", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["class_names"] == ["one", "eight"]
    total = sum(store.info(name).parameters for name in ("1", "8"))
    assert figures["total"]["parameters"] == total
    assert figures["composed"]["parameters"] < total  # Equal layers, once.
    assert not (out / "saved_model").exists()


def test_dry_run_needs_no_keras(spec_path):
    code = (
        "import sys\n"
        "from kmod.cli.main import main\n"
        f"code = main(['compose', {str(spec_path)!r}, '--dry-run'])\n"
        "slow = {'keras', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(str((code, slow)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stderr == "(0, set())\n"
    assert "all modules" in done.stdout
    assert "composed" not in done.stdout


def test_existing_directory(spec_path, tmp_path, capsys):
    (tmp_path / "file.txt").write_text("precious")
    argv = ["compose", str(spec_path), "--out", str(tmp_path)]
    assert main([*argv, "--format", "keras"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "must be new or empty" in err
    assert main([*argv, "--format", "keras", "--overwrite"]) == 2
    assert "without one" in capsys.readouterr().err
    assert (tmp_path / "file.txt").exists()


@pytest.mark.parametrize(
    ("old", "new", "exit_code", "message"),
    [
        ("two", "2two!", 2, "spec.yaml:2:7: `name` is not valid"),
        ("class: 8", "class: 11", 3, "spec.yaml:6:50: store 'digits' has no"),
        ("path: store", "path: nowhere", 3, "A module store is a directory"),
        (
            "path: store",
            f"path: store, digest: 'sha256:{'0' * 64}'",
            4,
            "must have this digest",
        ),
    ],
)
def test_exit_codes(spec_path, capsys, old, new, exit_code, message):
    text = spec_path.read_text()
    assert old in text
    spec_path.write_text(text.replace(old, new))
    assert main(["compose", str(spec_path), "--dry-run"]) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_out_or_dry_run_is_required(spec_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compose", str(spec_path)])
    assert caught.value.code == 2
    assert "--out --dry-run is required" in capsys.readouterr().err


def test_dry_run_as_json(spec_path, store, capsys):
    assert main(["compose", str(spec_path), "--dry-run", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in figures["classes"]] == ["one", "eight"]
    assert figures["stores"]["digits"]["digest"] == store.digest
    assert figures["stores"]["digits"]["adapter"] == {}
    assert "composed" not in figures


def test_dry_run_shows_adapters(spec_path, capsys):
    images = "input: {shape: [16, 16, 3], range: [0, 1]}\nclasses:"
    spec_path.write_text(spec_path.read_text().replace("classes:", images))
    assert main(["compose", str(spec_path), "--dry-run"]) == 0
    assert "to_grey, pool, rescale" in capsys.readouterr().out


def test_every_fault_of_the_sources_is_a_line(spec_path, capsys):
    text = spec_path.read_text().replace("class: 8", "class: 88")
    text = text.replace("class: 1}", "class: l}")
    text = text.replace("name: two\n", "name: two\nlicense: MIT\n")
    spec_path.write_text(text)
    assert main(["compose", str(spec_path), "--dry-run"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    places = [line.removeprefix(f"{spec_path}:") for line in err.splitlines()]
    assert [place[:5] for place in places] == ["6:48:", "7:50:"]


CHECKED = """\
checks:
  - {metric: accuracy, min: LEAST, data: {name: digits, split: test}}
  - {metric: recall, min: 0, data: {name: digits, split: test}, class: 8}
"""


def checked(spec_path, least):
    text = spec_path.read_text().replace("name: one", "name: 1")
    text = text.replace("name: eight", "name: 8")
    spec_path.write_text(text + CHECKED.replace("LEAST", least))


def test_checks_are_measured_and_kept(spec_path, tmp_path, capsys):
    checked(spec_path, "0.5")
    out = tmp_path / "two"
    argv = ["compose", str(spec_path), "--out", str(out), "--format", "keras"]
    assert main([*argv, "--json"]) == 0
    accuracy, recall = json.loads(capsys.readouterr().out)["composed"]["checks"]
    assert (accuracy["metric"], recall["class"]) == ("accuracy", "8")
    assert accuracy["value"] >= 0.5
    assert main([*argv, "--overwrite"]) == 0
    assert "digits:test" in capsys.readouterr().out


def test_failed_check_saves_nothing(spec_path, tmp_path, capsys):
    checked(spec_path, "1")
    out = tmp_path / "two"
    assert main(["compose", str(spec_path), "--out", str(out)]) == 5
    text, err = capsys.readouterr()
    assert text == ""
    assert "accuracy on digits:test is" in err
    assert not out.exists()


def test_formats_are_those_that_can_be_saved():
    assert set(compose._FORMATS) == set(FORMS)
    assert compose._DEFAULT_FORMATS == DEFAULT_FORMATS


def test_saved_spec_is_locked(spec_path, tmp_path, capsys):
    out = tmp_path / "two"
    argv = ["compose", str(spec_path), "--out", str(out), "--format", "keras"]
    assert main(argv) == 0
    assert main(["lock", "--check", str(out / "spec.yaml")]) == 0


def test_save_writes_what_the_command_writes(spec_path, tmp_path, capsys):
    assert main(["compose", str(spec_path), "--out", str(tmp_path / "a")]) == 0
    kmod.save(kmod.compose(spec_path), tmp_path / "b")
    one, other = map(
        read_composition_manifest, (tmp_path / "a", tmp_path / "b")
    )
    assert one.files.keys() == other.files.keys()
    assert dataclasses.replace(one, files={}) == dataclasses.replace(
        other, files={}
    )
    for name in ("spec.yaml", "spec.lock.yaml", "README.md"):
        assert one.files[name] == other.files[name]


@pytest.mark.long
def test_composed_model_is_slimmed_in_one_go(spec_path, tmp_path, capsys):
    checked(spec_path, "0.5")
    out = tmp_path / "two"
    argv = ["compose", str(spec_path), "--out", str(out), "--format", "keras"]
    assert main([*argv, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["composed"]
    argv += ["--slim", "0.6", "--data", "digits", "--epochs", "4"]
    argv += ["--test", "digits:test"]
    assert main([*argv, "--overwrite", "--json"]) == 0
    slim = json.loads(capsys.readouterr().out)["composed"]
    assert slim["macs"] <= 0.6 * whole["macs"]
    assert slim["slimmed"]["before"]["macs"] == whole["macs"]
    # Of all the digits, ones and eights.
    train = kmod.load_data("digits").train.labels
    assert slim["ways"][0]["num_labelled"] == slim["slimmed"]["num_images"]
    count = slim["slimmed"]["num_images"] + slim["slimmed"]["num_held_out"]
    assert count == np.isin(train, [1, 8]).sum()
    before, after = (
        [check["value"] for check in each["checks"]] for each in (whole, slim)
    )
    assert len(after) == len(before) and min(after) >= 0.5
    manifest = read_composition_manifest(out)
    assert manifest.sources and manifest.slimmed
    assert main(["test", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = {row["test"]: row["outcome"] for row in rows}
    assert found["accuracy on digits:test"] == "passed"
    assert found["recall of '8' on digits:test"] == "passed"


def test_slim_model_of_renamed_classes_learns_their_labels(
    spec_path, tmp_path, capsys
):
    argv = ["compose", str(spec_path), "--out", str(tmp_path / "two")]
    argv += ["--slim", "0.7", "--data", "digits", "--epochs", "2", "--json"]
    assert main(argv) == 0
    learned = json.loads(capsys.readouterr().out)["composed"]["slimmed"]
    train = kmod.load_data("digits").train.labels
    count = learned["num_images"] + learned["num_held_out"]
    assert count == np.isin(train, [1, 8]).sum()
    assert learned["num_labelled"] == learned["num_images"]


FITTED = """\
scores:
  calibration: joint
  data: {name: digits, split: validation}
  images_per_class: 10
"""


def test_what_needs_no_composition_stands_beside_it(
    spec_path, tmp_path, capsys
):
    def ways(out):
        argv = ["compose", str(spec_path), "--out", str(out)]
        argv += ["--format", "keras", "--test", "digits:test", "--json"]
        assert main(argv) == 0
        return json.loads(capsys.readouterr().out)["composed"]["ways"]

    stored = ways(tmp_path / "stored")
    assert [way["name"] for way in stored] == ["composed", "side by side"]
    assert [way["num_labelled"] for way in stored] == [0, 0]
    spec_path.write_text(spec_path.read_text() + FITTED)
    fitted = ways(tmp_path / "fitted")
    assert [(way["name"], way["num_labelled"]) for way in fitted] == [
        ("composed", 100),  # Those of other digits, too.
        ("side by side", 0),
        ("best source with a new last layer", 20),
    ]
    test = kmod.load_data("digits").test
    test = class_subset(test, [1, 8])
    found = kmod.evaluate(load(tmp_path / "fitted"), test, ("one", "eight"))
    assert fitted[0]["accuracy"] == found.accuracy
    assert all(way["accuracy"] > 0.6 for way in stored + fitted)
    kept = read_composition_manifest(tmp_path / "fitted").metrics["ways"]
    for way, row in zip(kept, fitted, strict=True):
        assert way == {name: row[name] for name in way} and len(way) == 5


@pytest.mark.parametrize(
    ("more", "data", "message"),
    [
        (FITTED, "digits:validation", "on images that it is not fitted on"),
        ("", "digits:tset", "'digits:tset'"),
        ("", "none/at/all:test", "none/at/all"),
    ],
    ids=["fitted-on", "split", "missing"],
)
def test_test_images_are_checked_first(
    spec_path, tmp_path, capsys, monkeypatch, more, data, message
):
    composed = []
    monkeypatch.setattr(composer, "compose_plan", lambda *_: composed.append(1))
    spec_path.write_text(spec_path.read_text() + more)
    out = tmp_path / "two"
    argv = ["compose", str(spec_path), "--out", str(out), "--test", data]
    assert main(argv) in (2, 3)
    text, messages = capsys.readouterr()
    assert message in messages and not text
    assert not out.exists() and not composed


@pytest.mark.parametrize("unlabelled", [[], ["--unlabelled"]])
def test_slim_model_is_not_measured_on_what_it_learned_from(
    spec_path, tmp_path, capsys, monkeypatch, unlabelled
):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", np.zeros((2, 8, 8, 1)))
    test = "./own.npz:test" if unlabelled else "./own.npz:train"
    argv = ["compose", str(spec_path), "--out", "two", "--slim", "0.5"]
    argv += ["--data", "own.npz", "--test", test, *unlabelled]
    assert main(argv) == 2
    assert f"--data own.npz --test {test}. Give" in capsys.readouterr().err


def test_patches_are_compared_elsewhere(spec_path, store, tmp_path, capsys):
    image = keras.Input((8, 8, 1))
    scores = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    keras.Model(image, scores).save(spec_path.parent / "weak.keras")
    spec_path.write_text("""\
version: 1
name: patched
stores: {digits: {path: STORE}}
base: {path: weak.keras, classes: [one, eight]}
patches:
  - {class: one, module: {store: digits, class: "1"}, combine: raw}
""".replace("STORE", store.path.name))
    out = tmp_path / "two"
    argv = ["compose", str(spec_path), "--out", str(out)]
    assert main([*argv, "--test", "digits:test"]) == 2
    assert "kmod patch" in capsys.readouterr().err


def test_slim_model_must_pass_the_checks(
    spec_path, tmp_path, capsys, monkeypatch
):
    checked(spec_path, "0.6")
    out = tmp_path / "two"

    def blind(model, *args, **options):
        small = keras.models.clone_model(model)  # Of random weights.
        small.class_names = model.class_names
        small.composition = model.composition
        return small

    monkeypatch.setattr("kmod.slimming.slim.slim", blind)
    argv = ["compose", str(spec_path), "--out", str(out), "--format", "keras"]
    argv += ["--slim", "0.6", "--data", "digits"]
    assert main(argv) == 5
    assert "accuracy on digits:test is" in capsys.readouterr().err
    assert not out.exists()


def test_paths_that_look_like_patterns_and_urls(store, tmp_path, capsys):
    below = shutil.copytree(store.path, tmp_path / "a:b" / "store")
    spec = {
        "version": 1,
        "name": "two",
        "stores": {"digits": {"path": below}},
        "classes": [
            {"name": name, "module": {"store": "digits", "class": name}}
            for name in ("1", "8")
        ],
    }
    path = tmp_path / "spec.yaml"
    write_spec(spec, path)
    out = tmp_path / "re[g]ex*?" / "a\\b"
    assert main(["compose", str(path), "--out", str(out)]) == 0
    assert load_spec(out / "spec.yaml").stores["digits"].path.samefile(below)
    assert main(["test", str(out)]) == 0
