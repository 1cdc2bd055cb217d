import configparser
import json
from pathlib import Path

import pytest

from kmod.cli import doctor
from kmod.cli.main import main

SETUP = Path(__file__).parents[2] / "setup.cfg"


EXTRAS = doctor.EXTRAS


@pytest.fixture(autouse=True)
def no_extras(monkeypatch):
    """Some take long to import."""
    monkeypatch.setattr(doctor, "EXTRAS", {})


@pytest.fixture
def no_trial(monkeypatch):
    monkeypatch.setattr(doctor, "_trial", lambda: "works")


def run(capsys, *options):
    code = main(["doctor", "--json", *options])
    printed = json.loads(capsys.readouterr().out)
    return code, printed, {each["name"]: each for each in printed["findings"]}


def test_sound_installation(capsys):
    code, printed, found = run(capsys)
    assert (code, printed["is_sound"]) == (0, True)
    assert found["trial"]["state"] == "ok"
    assert "loaded again, gap " in found["trial"]["detail"]
    assert "devices cpu:0" in found["backend"]["detail"]


@pytest.mark.parametrize("name", ["trial", "backend"])
def test_what_does_not_run_is_broken(monkeypatch, capsys, no_trial, name):
    def fail():
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr(doctor, f"_{name}", fail)
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert (
        f"kmod: {name}: RuntimeError: no luck {doctor._WAYS_OUT[name]}" in err
    )


@pytest.mark.parametrize(
    ("package", "specifier", "detail"),
    [
        ("keras", "<3", "where kmod needs <3."),
        ("nonsuch-package", ">=1", "nonsuch-package>=1 is not installed."),
    ],
)
def test_needed_package_that_does_not_fit(
    monkeypatch, capsys, package, specifier, detail
):
    from packaging.specifiers import SpecifierSet

    monkeypatch.setattr(doctor, "_REQUIRED", (package,))
    requirements = {package: SpecifierSet(specifier)}
    monkeypatch.setattr(doctor, "_requirements", lambda: requirements)
    code, printed, found = run(capsys)
    assert (code, printed["is_sound"]) == (1, False)
    assert detail in found[package]["detail"]
    assert found[package]["way_out"] == f"`pip install '{package}{specifier}'`"
    assert "trial" not in found


def test_missing_extra_is_no_fault(monkeypatch, capsys, no_trial):
    extras = {"x": (("nonsuch_module",), "nothing"), "y": (("json",), "all")}
    monkeypatch.setattr(doctor, "EXTRAS", extras)
    code, _, found = run(capsys)
    assert code == 0
    assert found["extra x"]["state"] == "missing"
    assert found["extra x"]["way_out"] == "`pip install 'kmod[x]'`"
    assert found["extra y"]["state"] == "ok"


def test_data_sets_are_found(monkeypatch, tmp_path, capsys, no_trial):
    info = tmp_path / "mnist/3.0.1/dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text("{}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    _, _, found = run(capsys)
    detail = found[f"data in {tmp_path}"]["detail"]
    assert detail == "mnist:3.0.1 (TFDS_DATA_DIR)"
    _, _, found = run(capsys, "--data-dir", str(tmp_path / "mnist"))
    empty = found[f"data in {tmp_path / 'mnist'}"]
    assert empty["state"] == "missing"
    assert "download=True" in empty["way_out"]


def test_tables_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    declared = {
        line.split(">=")[0].replace("-", "_")
        for extra in EXTRAS
        for line in setup["options.extras_require"][extra].split()
    }
    assert {name for names, _ in EXTRAS.values() for name in names} == declared
    optional = {"all", "test", "docs"}
    assert EXTRAS.keys() == setup["options.extras_require"].keys() - optional
    needed = setup["options"]["install_requires"].split()
    assert all(any(n.startswith(r) for n in needed) for r in doctor._REQUIRED)
