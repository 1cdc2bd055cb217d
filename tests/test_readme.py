import re
import subprocess
import sys
from pathlib import Path

import pytest

from kmod.data.digits import load_digits
from kmod.spec.loader import load_spec
from kmod.zoo.build import build
from kmod.zoo.train import train_source

README = Path(__file__).parents[1] / "README.md"


def block(language):
    found = re.search(
        rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S
    )
    return found.group(1)


def test_python_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "kmod-demo").mkdir()
    source = build("simcnn", (8, 8, 1), 10)
    train_source(source, load_digits(), 3, batch_size=64, verbose=0)
    source.save(tmp_path / "kmod-demo/source.keras")
    monkeypatch.chdir(tmp_path)
    exec(block("python"), {})
    assert (tmp_path / "modules/digits/store.yaml").exists()
    last_line = capsys.readouterr().out.splitlines()[-1]
    rate, shape = last_line.split(" ", 1)
    assert float(rate) == pytest.approx(0.4, abs=0.02)
    assert shape == "(None, 1)"


def test_spec_example_is_valid(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(block("yaml"))
    assert load_spec(path).class_names == ("two", "four")


def test_figures_are_those_of_the_summary(tmp_path):
    """The tables that `benchmarks/tables.py` makes are in the README."""
    code = (
        "from common import SUMMARY, read_result; from tables import figures; "
        "print(figures(read_result(SUMMARY)), end='')"
    )
    folder = README.with_name("benchmarks")
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert made.count("|") > 20
    assert made in README.read_text(encoding="utf-8")
