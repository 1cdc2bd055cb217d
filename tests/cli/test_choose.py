import json
import os
import re

import pytest

from kmod.cli.main import main
from kmod.composition.saving import load
from kmod.data.subsets import class_subset
from kmod.metrics.evaluate import evaluate
from kmod.spec.model import Scores
from kmod.spec.spec_file import load_spec


def choose_argv(store, out, *more, data="digits:validation"):
    names = ["--class", "7", "--class", "1"]
    return [
        *("choose", *names, "--store", str(store.path)),
        *("--data", data, "--out", str(out), *more),
    ]


def test_spec_is_written_and_composed(store, ten_digits, tmp_path, capsys):
    path, out = tmp_path / "task.yaml", tmp_path / "model"
    argv = choose_argv(store, path, "--compose", str(out), "--json")
    assert main(argv) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures["classes"]) == ["7", "1"]
    assert figures["images"] <= 100
    assert figures["classes"]["7"]["store"] == str(store.path)
    assert figures["classes"]["7"]["roc_auc"] > 0.9
    assert load_spec(path).class_names == ("7", "1")
    images = class_subset(ten_digits.test, [7, 1])
    assert evaluate(load(out), images).accuracy > 0.8


def test_store_may_be_spelt_twice(store, tmp_path, capsys):
    again = ["--store", f"{store.path}/."]
    assert main(choose_argv(store, tmp_path / "task.yaml", *again)) == 0
    assert "accuracy against cost" in capsys.readouterr().out


def test_table_names_the_modules(store, tmp_path, capsys):
    assert main(choose_argv(store, tmp_path / "task.yaml")) == 0
    lines = capsys.readouterr().out.splitlines()
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
    assert main(["check", str(tmp_path / "task.yaml")]) == 0


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


def test_budget_takes_images(store, tmp_path, capsys):
    argv = choose_argv(store, tmp_path / "t.yaml", "--macs-budget", "1e6")
    argv.remove("--data")
    argv.remove("digits:validation")
    assert main(argv) == 2
    assert "--macs-budget without --data" in capsys.readouterr().err


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
