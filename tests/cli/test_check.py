import json

import pytest

from kmod.cli import console
from kmod.cli.main import main

GOOD = """\
version: 1
name: pets
stores:
  cifar: {path: cifar}
classes:
  - {name: cat, module: {store: cifar, class: cat}}
  - {name: dog, module: {store: cifar, class: dog}}
"""


@pytest.fixture
def specs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(GOOD.replace("name: dog", "nme: dog"))
    unused = GOOD.replace("stores:\n", "stores:\n  stl: {path: stl}\n")
    (tmp_path / "unused.yaml").write_text(unused)


def test_good_spec(specs, capsys):
    assert main(["check", "good.yaml"]) == 0
    assert capsys.readouterr() == ("good.yaml: ok, 2 classes\n", "")


def test_bad_spec_has_a_line_per_fault_and_no_success(specs, capsys):
    assert main(["check", "bad.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" ")[0] for line in err.splitlines()] == [
        "bad.yaml:7:6:",
    ]
    assert "unknown key 'nme'" in err


def test_warning_does_not_fail(specs, capsys):
    assert main(["check", "unused.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == "unused.yaml: ok, 2 classes\n"
    assert err.startswith("unused.yaml:4:3: warning: no module is taken from")


def test_missing_spec(specs, capsys):
    assert main(["check", "nope.yaml"]) == 3
    assert capsys.readouterr() == (
        "",
        "nope.yaml: No such file or directory.\n",
    )


def test_every_spec_is_checked_and_the_worst_decides(specs, capsys):
    paths = ["nope.yaml", "bad.yaml", "good.yaml"]
    assert main(["check", *paths]) == 3
    assert main(["check", *paths[1:]]) == 2
    out, err = capsys.readouterr()
    assert out == "good.yaml: ok, 2 classes\n" * 2
    assert err.count("bad.yaml:7:6:") == 2


def test_json(specs, capsys):
    assert main(["check", "--json", "good.yaml", "bad.yaml"]) == 2
    good, bad = json.loads(capsys.readouterr().out)
    assert good == {
        "spec": "good.yaml",
        "exit_code": 0,
        "classes": ["cat", "dog"],
        "faults": [],
        "warnings": [],
    }
    assert (bad["spec"], bad["exit_code"], bad["classes"]) == (
        "bad.yaml",
        2,
        [],
    )
    places = [(fault["line"], fault["column"]) for fault in bad["faults"]]
    assert places == [(7, 6)]
    assert bad["faults"][0]["message"].startswith("unknown key 'nme'")


def test_terminal_shows_the_line_with_a_caret(specs, capsys, monkeypatch):
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    assert main(["check", "bad.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "    " + GOOD.splitlines()[6].replace("name", "nme")
    assert lines[2] == " " * (4 + 5) + "^"
