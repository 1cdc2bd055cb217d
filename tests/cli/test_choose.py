import contextlib
import dataclasses
import io
import json
import os
import re
from xml.etree import ElementTree

import pytest

from kmod.cli.main import main
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.saving import load
from kmod.data.subsets import class_subset
from kmod.metrics.evaluate import evaluate
from kmod.selection.module_choice import ModuleChoice
from kmod.spec.model import Scores
from kmod.spec.spec_file import load_spec


def choose_argv(store, out, *more, data="digits:validation"):
    names = ["--class", "7", "--class", "1"]
    return [
        *("choose", *names, "--store", str(store.path)),
        *("--data", data, "--out", str(out), *more),
    ]


@pytest.fixture(scope="module")
def chosen(store, tmp_path_factory):
    """Folder of a spec, its model and its picture, and what was printed."""
    folder = tmp_path_factory.mktemp("chosen")
    made = ["--compose", str(folder / "model")]
    made += ["--plot", str(folder / "frontier.svg")]
    argv = choose_argv(store, folder / "task.yaml", *made, "--json")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(argv) == 0
    return folder, json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def told(store, tmp_path_factory):
    """Path of a spec, and what people read; the store was spelt twice."""
    path = tmp_path_factory.mktemp("told") / "task.yaml"
    again = ["--store", f"{store.path}/."]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        assert main(choose_argv(store, path, *again)) == 0
    return path, out.getvalue(), err.getvalue()


@pytest.mark.long
def test_spec_is_written_and_composed(chosen, store, ten_digits):
    folder, figures = chosen
    path, out = folder / "task.yaml", folder / "model"
    assert list(figures["classes"]) == ["7", "1"]
    assert figures["images"] <= 100
    assert figures["classes"]["7"]["store"] == str(store.path)
    assert figures["classes"]["7"]["roc_auc"] > 0.9
    assert load_spec(path).class_names == ("7", "1")
    images = class_subset(ten_digits.test, [7, 1])
    assert evaluate(load(out), images).accuracy > 0.8


def test_table_names_the_modules_of_a_store_spelt_twice(told, store):
    path, printed, _ = told
    lines = printed.splitlines()
    assert lines[0].strip().startswith("chosen on ")
    assert lines[2].split()[:2] == ["7", store.path.name]
    assert "ROC AUC" in lines[1]
    assert f"{store.path.name} 0.9" in lines[2]
    (expected,) = [line for line in lines if line.startswith(" accuracy  ")]
    (cost,) = [i for i, line in enumerate(lines) if "against cost" in line]
    assert lines[cost + 1].split()[-1] == "chosen"
    assert lines[cost + 2].split()[:2] == [store.path.name, "0"]
    assert re.search(r"[01]\.\d{4}  +0\.\d{4} to [01]\.\d{4}", expected)
    assert any(re.match(r" F1 of '[17]' +[01]\.\d{4}", line) for line in lines)
    assert main(["check", str(path)]) == 0


def test_auxiliary_modules_are_saved_and_told(store, tmp_path, capsys):
    path, out = tmp_path / "task.yaml", tmp_path / "model"
    path.write_text(
        "version: 1\n"
        "name: seven-or-one\n"
        f"stores: {{s: {{path: {os.path.relpath(store.path, tmp_path)}}}}}\n"
        "classes:\n"
        "  - {name: 7, module: {store: s, class: 7}}\n"
        "  - {name: 1, module: {store: s, class: 1}}\n"
        "scores:\n"
        "  calibration: joint\n"
        "  data: {name: digits, split: validation}\n"
        "  auxiliary: [{store: s, class: 8}]\n"
    )
    assert main(["compose", str(path), "--out", str(out)]) == 0
    capsys.readouterr()
    for where in (path, out):
        assert main(["inspect", str(where), "--json"]) == 0
        *own, last = json.loads(capsys.readouterr().out)["sources"]
        assert [row["class"] for row in own] == ["7", "1"]
        assert (last["class"], last["module"]) == ("*", "8")
    argv = ["evaluate", str(out), "--data", "digits:test", "--json"]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.8


def test_auxiliary_modules_can_be_left_out(store, tmp_path, capsys):
    argv = choose_argv(store, tmp_path / "t.yaml", "--no-auxiliary", "--json")
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["auxiliary"] == []
    assert load_spec(tmp_path / "t.yaml").scores.auxiliary == ()


@pytest.mark.parametrize(
    ("more", "data", "exit_code", "message"),
    [
        (["--class", "x"], "digits:validation", 3, "Received: ['x']"),
        (["--class", "7"], "digits:validation", 2, "['7'] more than once"),
        ([], "digits:test", 2, "because the test images measure"),
        (["--macs-budget", "5"], "digits:validation", 5, "`--macs-budget`"),
        (["--store", "nowhere"], "digits:validation", 3, "nowhere"),
    ],
)
def test_wrong_usage(store, tmp_path, capsys, more, data, exit_code, message):
    argv = choose_argv(store, tmp_path / "t.yaml", *more, data=data)
    assert main(argv) == exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t.yaml").exists()


def run_json(argv, capsys):
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_plain_ways_stand_beside_the_options(chosen, told):
    _, figures = chosen
    side, layer = figures["plain"]
    assert side["key"] == "side-by-side"
    assert layer["key"] == "best-source-with-a-new-last-layer"
    assert (side["num_labelled"], layer["num_labelled"]) == (
        0,
        figures["images"],
    )
    (taken,) = (each for each in figures["options"] if each["is_taken"])
    assert taken["milliseconds"] > 0
    better = []
    for way in figures["plain"]:
        assert way["milliseconds"] > 0 and way["parameters"] > 0
        right = way["validation"]["accuracy"]
        is_smaller = way["macs"] < taken["macs"]
        if right >= taken["accuracy"] or not is_smaller:
            assert way["is_better"] is is_smaller
        better += [way["key"]] if way["is_better"] else []
    _, out, said = told
    for way in (side, layer):
        start = " " + way["name"][:11]  # The rest may be on other lines.
        (line,) = [x for x in out.splitlines() if x.startswith(start)]
        assert f"{way['macs']:,}" in line
    assert re.findall(r"--take (\S+)`", said) == better


@pytest.mark.parametrize("is_better", [False, True])
def test_a_better_way_is_said_first(
    store, tmp_path, capsys, monkeypatch, is_better
):
    monkeypatch.setattr(ModuleChoice, "is_better", lambda *_: is_better)
    assert main(choose_argv(store, tmp_path / "task.yaml")) == 0
    first = capsys.readouterr().err.splitlines()[0]
    advice = "Without a composition, 'side by side' is as good on the images"
    assert first.startswith(advice) == is_better
    assert ("--compose DIR --take side-by-side" in first) == is_better


@pytest.mark.long
def test_budget_of_a_smaller_model_that_is_as_good_is_said(
    store, tmp_path, capsys, monkeypatch
):
    smallest = property(lambda choice: choice.options[0])
    monkeypatch.setattr(ModuleChoice, "cheaper", smallest)
    assert main(choose_argv(store, tmp_path / "one.yaml")) == 0
    (budget,) = re.findall(r"--macs-budget (\d+)`", capsys.readouterr().err)
    more = ["--macs-budget", budget]
    figures = run_json(choose_argv(store, tmp_path / "two.yaml", *more), capsys)
    (taken,) = (each for each in figures["options"] if each["is_taken"])
    assert taken["macs"] == int(budget) and not figures["auxiliary"]


def test_budget_that_is_said_is_not_rounded(
    store, tmp_path, capsys, monkeypatch
):
    def large(choice):
        option = choice.options[0]
        sizes = dataclasses.replace(option.sizes, macs=12_345_678)
        return dataclasses.replace(option, sizes=sizes)

    monkeypatch.setattr(ModuleChoice, "cheaper", property(large))
    assert main(choose_argv(store, tmp_path / "one.yaml")) == 0
    assert "`--macs-budget 12345678`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "way", ["side-by-side", "best-source-with-a-new-last-layer"]
)
def test_what_needs_no_composition_can_be_taken(
    store, ten_digits, tmp_path, capsys, way
):
    path, out = tmp_path / "task.yaml", tmp_path / "model"
    more = ["--compose", str(out), "--take", way]
    figures = run_json(choose_argv(store, path, *more), capsys)
    (row,) = (each for each in figures["plain"] if each["key"] == way)
    images = class_subset(ten_digits.test, [7, 1])
    taken = load(out)
    assert taken.class_names == ("7", "1")
    assert evaluate(taken, images).accuracy == pytest.approx(
        row["validation"]["accuracy"], abs=0.1
    )
    manifest = read_composition_manifest(out)
    assert manifest.name == f"task-{way}"
    assert {each["store"] for each in manifest.sources} == {store.digest}
    classes = {each["class"] for each in manifest.sources}
    assert classes == ({"7", "1"} if way == "side-by-side" else {"*"})
    expected = {
        "accuracy": row["validation"]["accuracy"],
        "num_labelled": row["num_labelled"],
    }
    assert manifest.metrics["expected"] == expected
    recorded = {each["name"]: each for each in manifest.metrics["ways"]}
    assert list(recorded) == ["chosen", *(w["name"] for w in figures["plain"])]
    assert expected.items() < recorded[row["name"]].items()
    assert not (out / "spec.yaml").exists() and path.exists()
    assert main(["test", str(out)]) == 0


@pytest.mark.parametrize(
    ("more", "without", "message"),
    [
        (["--take", "side-by-side"], None, "without --compose"),
        (
            ["--take", "side-by-side", "--compose", "x"],
            "--data",
            "without --data",
        ),
        (["--take", "luck", "--compose", "x"], None, "one of ['side-by-side'"),
        (["--plot", "x.svg"], "--data", "--plot x.svg without --data"),
        (["--plot", "x.png"], None, "ends in `.svg`"),
        (
            ["--plot", "x/y.svg", "--compose", "x"],
            None,
            "outside of the model's directory",
        ),
        (
            ["--plot", "x.svg", "--images-per-class", "1"],
            None,
            "takes two images of each class",
        ),
    ],
)
def test_wrong_usage_of_plain_ways(
    store, tmp_path, capsys, monkeypatch, more, without, message
):
    monkeypatch.chdir(tmp_path)
    argv = choose_argv(store, "t.yaml", *more)
    if without:
        index = argv.index(without)
        del argv[index : index + 2]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    left = {"t.yaml"} if "--images-per-class" in more else set()
    assert {path.name for path in tmp_path.iterdir()} == left


def test_frontier_is_drawn(chosen):
    folder, figures = chosen
    drawn = ElementTree.parse(folder / "frontier.svg").getroot()
    kinds = [each.get("class") for each in drawn.iter()]
    assert kinds.count("svg-own") == len(figures["options"])
    assert kinds.count("svg-plain") == len(figures["plain"])
    assert kinds.count("svg-ring") == kinds.count("svg-line") == 1
    text = " ".join(drawn.itertext())
    assert "Accuracy against cost of 7, 1" in text
    for way in figures["plain"]:
        assert way["name"] in text
    rows = figures["options"] + figures["plain"]
    best = [row for row in rows if row["is_on_frontier"]]
    (line,) = [x for x in drawn.iter() if x.get("class") == "svg-line"]
    assert line.get("d").count("V") == len(best) - 1


def test_existing_spec_is_kept(store, tmp_path, capsys):
    path = tmp_path / "t.yaml"
    path.write_text("mine")
    assert main(choose_argv(store, path)) == 2
    assert path.read_text() == "mine"


def test_modules_are_chosen_without_images(store, tmp_path, capsys):
    argv = [
        "choose",
        "--class",
        "1",
        "--class",
        "7",
        "--store",
        str(store.path),
    ]
    path = tmp_path / "spec.yaml"
    assert main([*argv, "--out", str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 0
    expected = store.info("7").metrics.get("f1", 0.0)
    assert figures["classes"]["7"]["f1"] == expected
    assert load_spec(path).scores == Scores()
    assert "by the F1 that their stores hold" in path.read_text()
    assert main([*argv, "--out", str(path), "--overwrite"]) == 0
    assert f"{expected:.4f}" in capsys.readouterr().out
