import json

import pytest

import kmod
from kmod.analysis import dependence
from kmod.cli.main import main
from kmod.files.plain_yaml import read_yaml


@pytest.fixture
def argv(donor, digits):
    names = ",".join(digits.class_names)
    data = ["--data", "digits", "--classes", names]
    return ["dependence", str(donor.path), *data]


def test_figures_are_printed_and_written(argv, donor, digits, tmp_path, capsys):
    out = tmp_path / "found.yaml"
    assert main([*argv, "--json", "--out", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out)
    found = kmod.dependence(donor, digits)
    assert figures == found.as_dict()
    assert figures["images"] == len(digits.validation)
    assert read_yaml(out) == figures


def test_table_says_what_moves_together(argv, monkeypatch, capsys):
    monkeypatch.setattr(
        dependence.Dependence,
        "partners",
        lambda self, name: ("3", "9") if name == "8" else (),
    )
    assert main([*argv[:3], "digits:test", *argv[4:]]) == 0
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()]
    recommended = {row[0]: row[8:] for row in rows if row[:1] != ["class"]}
    assert recommended["8"] == ["3,", "9"]
    assert recommended["3"] == recommended["9"] == ["alone"]
    assert "-0.00" not in said.out
    assert "In points" in said.err
