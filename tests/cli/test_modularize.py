import json

import pytest

from kmod.cli.main import main
from kmod.store.module_store import load_store
from kmod.zoo.build import build


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.keras"
    build("simcnn", (8, 8, 1), 10, width=0.25).save(path)
    return str(path)


def arguments(source, out, *more):
    return ["modularize", source, "--data", "digits", "--out", str(out), *more]


def test_store_is_written_and_the_run_directory_goes(source, tmp_path, capsys):
    out = tmp_path / "store"
    options = ["--epochs", "1", "--batch-size", "256", "--json"]
    options += ["--mask-from", "conv_3", "--retention-target", "0.5"]
    options += ["--macs-target", "2.5"]
    assert main(arguments(source, out, *options)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in printed["modules"]] == list("0123456789")
    store = load_store(out)
    assert store.manifest.arguments["mask_from"] == "conv_3"
    assert store.manifest.arguments["recipe"]["macs_target"] == 2.5
    assert store.manifest.source.name == "source"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--recipe", "paper", "--retention-target", "0.5"],
            "belongs to the default recipe",
            id="target-of-paper-recipe",
        ),
        pytest.param(
            ["--recipe", "paper", "--macs-target", "2"],
            "`--macs-target` belongs to the default recipe",
            id="macs-target-of-paper-recipe",
        ),
        pytest.param(
            ["--macs-target", "0.1", "--mask-from", "conv_3"],
            "above the stem's share",
            id="macs-below-the-stem",
        ),
        pytest.param(
            ["--mask-from", "conv_99"],
            "must be a layer with kernels",
            id="unknown-layer",
        ),
    ],
)
def test_wrong_options_exit_with_2(source, tmp_path, capsys, options, message):
    assert main(arguments(source, tmp_path / "store", *options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "store").exists()


def test_store_that_is_there_is_not_replaced(source, tmp_path, capsys):
    (tmp_path / "store").mkdir()
    assert main(arguments(source, tmp_path / "store")) == 2
    assert "give `--overwrite`" in " ".join(capsys.readouterr().err.split())


def test_missing_source_exits_with_3(tmp_path, capsys):
    missing = str(tmp_path / "missing.keras")
    assert main(arguments(missing, tmp_path / "store")) == 3
    assert "missing.keras" in capsys.readouterr().err
