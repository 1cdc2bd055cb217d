import json

import pytest

from kmod.cli.main import main
from kmod.modules.module_store import load_store


def arguments(source_path, out, *more):
    start = ["modularize", str(source_path), "--data", "digits"]
    return [*start, "--out", str(out), *more]


@pytest.mark.long
def test_store_names_its_method(source_path, tmp_path, capsys):
    out = tmp_path / "store"
    options = ["--method", "cnnsplitter", "--population", "4"]
    options += ["--generations", "2", "--images", "40", "--head-epochs", "0"]
    options += ["--retention-target", "0.8", "--frozen", "--json"]
    assert main(arguments(source_path, out, *options)) == 0
    assert len(json.loads(capsys.readouterr().out)["modules"]) == 10
    manifest = load_store(out).manifest
    assert manifest.method == "cnnsplitter"
    assert manifest.arguments["search"]["retention_target"] == 0.8
    assert manifest.arguments["head_epochs"] == 0
    assert manifest.metrics["after"]["retention_rate"] <= 0.8
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--population", "4"],
            "`--population` belongs to `--method cnnsplitter`",
            id="search-option-of-gradsplitter",
        ),
        pytest.param(
            ["--method", "cnnsplitter", "--recipe", "default"],
            "`--recipe` belongs to `--method gradsplitter`",
            id="recipe-of-cnnsplitter",
        ),
        pytest.param(
            ["--method", "gradsplitter", "--figures", "here"],
            "`--figures` belongs to `--method cnnsplitter`",
            id="figures-of-gradsplitter",
        ),
        pytest.param(
            ["--method", "cnnsplitter", "--population", "2"],
            "`--population` must be at least 4",
            id="population-too-small",
        ),
    ],
)
def test_options_of_other_methods_exit_with_2(
    source_path, tmp_path, capsys, options, message
):
    out = tmp_path / "store"
    assert main(arguments(source_path, out, *options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
