import json
import shutil

import keras
import pytest

from kmod.cli.main import main
from kmod.files import run_directory
from kmod.modules.module_store import load_store


def arguments(source_path, out, *more):
    return [
        "modularize",
        str(source_path),
        "--data",
        "digits",
        "--out",
        str(out),
        *more,
    ]


def test_store_is_written_and_the_run_directory_goes(
    source_path, tmp_path, capsys
):
    out = tmp_path / "store"
    options = ["--epochs", "1", "--batch-size", "256", "--json"]
    options += ["--mask-from", "conv_2", "--retention-target", "0.5"]
    options += ["--macs-target", "2.5"]
    assert main(arguments(source_path, out, *options)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in printed["modules"]] == list("0123456789")
    store = load_store(out)
    assert store.manifest.arguments["mask_from"] == "conv_2"
    assert store.manifest.arguments["recipe"]["macs_target"] == 2.5
    assert store.manifest.source.name == "source"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--recipe", "paper", "--retention-target", "0.5"],
            "`retention_target` belongs to recipes",
            id="target-of-paper-recipe",
        ),
        pytest.param(
            ["--recipe", "paper", "--macs-target", "2"],
            "`macs_target` belongs to recipes",
            id="macs-target-of-paper-recipe",
        ),
        pytest.param(
            ["--macs-target", "0.1", "--mask-from", "conv_2"],
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
def test_wrong_options_exit_with_2(
    source_path, tmp_path, capsys, options, message
):
    assert main(arguments(source_path, tmp_path / "store", *options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "store").exists()


def test_store_that_is_there_is_not_replaced(source_path, tmp_path, capsys):
    (tmp_path / "store").mkdir()
    assert main(arguments(source_path, tmp_path / "store")) == 2
    assert "give `--overwrite`" in " ".join(capsys.readouterr().err.split())


def test_missing_source_exits_with_3(tmp_path, capsys):
    missing = str(tmp_path / "missing.keras")
    assert main(arguments(missing, tmp_path / "store")) == 3
    assert "missing.keras" in capsys.readouterr().err


SHORT = ["--epochs", "1", "--batch-size", "512", "--mask-from", "conv_2"]


@pytest.fixture(scope="module")
def killed_run(source_path, tmp_path_factory):
    """Runs the command until its store is in place and not a step further."""

    def end(directory):
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(run_directory, "discard_run", end)
        assert main(arguments(source_path, folder / "store", *SHORT)) == 130
    return folder


@pytest.fixture
def killed(killed_run, tmp_path):
    shutil.copytree(killed_run, tmp_path / "out")
    return tmp_path / "out/store"


def contents(store):
    return {name: store.content(name) for name in store}


def test_run_whose_store_is_in_place_can_be_ended(source_path, killed, capsys):
    before = contents(load_store(killed))
    assert main(arguments(source_path, killed, *SHORT)) == 2
    assert "give `--overwrite`" in " ".join(capsys.readouterr().err.split())
    assert (
        main(arguments(source_path, killed, *SHORT, "--resume", "--json")) == 0
    )
    assert len(json.loads(capsys.readouterr().out)["modules"]) == 10
    assert contents(load_store(killed)) == before
    assert [path.name for path in killed.parent.iterdir()] == ["store"]


def test_store_of_another_run_is_not_replaced(source_path, killed, capsys):
    run = killed.with_name(".store.run")
    identity = json.loads((run / "run.json").read_text())["identity"]
    run_directory.open_run(run, {**identity, "seed": 1}, resume=False)
    assert main(arguments(source_path, killed, *SHORT, "--resume")) == 2
    assert "give `--overwrite`" in " ".join(capsys.readouterr().err.split())


def test_another_source_is_not_resumed(source_path, killed, tmp_path, capsys):
    other = keras.saving.load_model(source_path)
    weight = other.weights[0]
    weight.assign(weight + 1e-6)
    other.save(tmp_path / "source.keras")
    call = arguments(str(tmp_path / "source.keras"), killed, *SHORT)
    before = contents(load_store(killed))
    assert main([*call, "--resume"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "Received: different source model, for the run in" in message
    assert contents(load_store(killed)) == before


def test_users_file_survives_in_the_run_directory(
    source_path, tmp_path, monkeypatch, capsys
):
    run = tmp_path / ".store.run"
    discard = run_directory.discard_run

    def add_and_discard(directory):
        (directory / "mine.txt").write_text("mine")
        discard(directory)

    monkeypatch.setattr(run_directory, "discard_run", add_and_discard)
    call = arguments(source_path, tmp_path / "store", *SHORT, "--resume")
    assert main(call) == 0
    assert "has no run to go on with" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["mine.txt"]
    call = arguments(source_path, tmp_path / "store", *SHORT, "--overwrite")
    assert main(call) == 2
    assert "holds 'mine.txt'" in " ".join(capsys.readouterr().err.split())


def test_damaged_run_exits_with_3(source_path, tmp_path, capsys):
    run = tmp_path / ".store.run"
    run.mkdir()
    (run / "run.json").write_text("{")
    assert main(arguments(source_path, tmp_path / "store", "--resume")) == 3
    assert "which is damaged" in " ".join(capsys.readouterr().err.split())
