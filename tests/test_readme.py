import re
from pathlib import Path

import pytest

from kmod.spec.loader import load_spec
from kmod.zoo.build import build

README = Path(__file__).parents[1] / "README.md"


def block(language):
    found = re.search(
        rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S
    )
    return found.group(1)


def test_python_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "kmod-demo").mkdir()
    build("simcnn", (8, 8, 1), 10).save(tmp_path / "kmod-demo/source.keras")
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
