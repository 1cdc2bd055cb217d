import json

import pytest

from kmod.cli.main import main
from kmod.modules.module_store import load_store


def arguments(store, source, out, *more):
    paths = [str(store.path), str(source)]
    return ["refine", *paths, "--data", "digits", "--out", str(out), *more]


@pytest.mark.long
def test_new_store_is_written(store, source_path, tmp_path, capsys):
    out = tmp_path / "refined"
    options = ["--epochs", "1", "--batch-size", "256", "--json"]
    assert main(arguments(store, source_path, out, *options)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in printed["modules"]] == list("0123456789")
    refined = load_store(out)
    assert refined.manifest.arguments["refinement"]["epochs"] == 1
    assert refined.digest != store.digest


def test_other_source_exits_with_3(store, weak_path, tmp_path, capsys):
    assert main(arguments(store, weak_path, tmp_path / "refined")) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "refined with the source model they were cut from" in said
    assert not (tmp_path / "refined").exists()


def test_store_that_is_there_is_not_replaced(
    store, source_path, tmp_path, capsys
):
    (tmp_path / "thesis.txt").write_text("dear")
    assert main(arguments(store, source_path, tmp_path)) == 2
    assert "with `--overwrite`" in " ".join(capsys.readouterr().err.split())
