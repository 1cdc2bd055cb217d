import html

import pytest

from kmod.cli.main import main
from kmod.cli.report import data_title
from kmod.composition.saving import load
from kmod.data.subsets import class_subset
from kmod.metrics.evaluate import evaluate


def test_composed_model_on_its_test_images(
    composed_path, ten_digits, tmp_path, capsys
):
    out = tmp_path / "report.html"
    argv = ["report", str(composed_path), "--out", str(out)]
    assert main([*argv, "--data", "digits"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and said.err == f"Saved to '{out}'.\n"
    page = html.unescape(out.read_text("utf-8"))
    images = class_subset(ten_digits.test, [7, 1, 8])
    accuracy = evaluate(load(composed_path), images).accuracy
    assert f"<b>{100 * accuracy:.1f} %</b>" in page
    assert f"on {len(images)} images of digits:test" in page


def test_split_can_be_named(composed_path, tmp_path):
    out = tmp_path / "report.html"
    argv = ["report", str(composed_path), "--out", str(out)]
    assert main([*argv, "--data", "digits:validation"]) == 0
    assert "images of digits:validation" in out.read_text("utf-8")


def test_report_is_made_here_by_default(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(store.path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert main(["report", str(store.path)]) == 2
    assert "`--overwrite`" in capsys.readouterr().err
    assert main(["report", str(store.path), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("digits", "digits"), ("/home/ant/photos/", "photos"), ("", "")],
)
def test_title_of_data_tells_no_folders(name, expected):
    assert data_title(name) == expected
