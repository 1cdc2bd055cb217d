import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import keras
import pytest

import kmod
from kmod.callbacks.best_modules import EpochModules
from kmod.cli import models
from kmod.cli import modularize
from kmod.cli.main import build_parser as parser
from kmod.cli.main import main
from kmod.composition.saving import load
from kmod.files import run_directory
from kmod.graph.sizes import model_sizes
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import spec_text


def arguments(source, out, *more):
    data = ["--data", "digits", "--classes", "3,8,9"]
    return ["modularize", str(source), *data, "--out", str(out), *more]


def test_store_is_written_and_the_run_directory_goes(
    three_path, tmp_path, capsys
):
    out = tmp_path / "store"
    options = ["--epochs", "1", "--batch-size", "256", "--json"]
    options += ["--mask-from", "conv_2", "--retention-target", "0.36"]
    options += ["--macs-target", "2.5", "--frozen"]
    assert main(arguments(three_path, out, *options)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in printed["modules"]] == list("389")
    store = load_store(out)
    assert store.manifest.arguments["mask_from"] == "conv_2"
    assert store.manifest.arguments["recipe"]["macs_target"] == 2.5
    assert store.manifest.source.name == "source"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    # The figures are those of the store and of its composition.
    assert printed["metrics"] == store.manifest.metrics
    chosen = printed["chosen_epoch"]
    assert (chosen["epoch"], chosen["epochs"]) == (1, 1)
    assert chosen["retention_rate"] == pytest.approx(0.36, abs=0.06)
    assert printed["composition"]["seconds"] > 0
    assert printed["composition"]["source_seconds"] > 0
    contract = store.manifest.contract
    assert (out / contract["source"]).samefile(three_path)
    line = contract["checks"][-1]
    ratio = printed["composition"]["seconds"]
    ratio /= printed["composition"]["source_seconds"]
    assert line["metric"] == "latency"
    assert 2 * ratio <= line["max"] <= 2 * ratio + 0.11
    assert printed["calibration"] == {"uncalibrated": [], "num_images": 86}
    # One epoch is too few, so that these modules lose much.
    epochs, target = printed["advice"]
    assert epochs.startswith("--epochs 2, more --refine-epochs, ")
    assert target == "a higher --retention-target than 0.36"
    # The spec is ready and its commands are, too.
    following = printed["next"]
    spec = tmp_path / "store.yaml"
    assert following["path"] == str(spec)
    spec.write_text(following["spec"])
    for command, folder in zip(following["commands"], [[], ["built"]]):
        program, *words = shlex.split(command)
        assert program == "kmod"
        if folder:
            words[-1] = str(tmp_path / "built")
        assert main(words) == 0
    composed = load(tmp_path / "built")
    sizes = model_sizes(composed)
    # The composition has no sigmoids and one softmax.
    assert printed["composition"]["macs"] == sizes.macs
    assert printed["composition"]["parameters"] == sizes.parameters


@pytest.mark.long
def test_modules_cost_no_more_than_their_source_together(
    three_path, tmp_path, capsys
):
    out = tmp_path / "store"
    options = ["--epochs", "6", "--batch-size", "64", "--refine-epochs", "2"]
    assert main(arguments(three_path, out, *options, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    manifest = load_store(out).manifest
    assert manifest.arguments["mask_from"] == "conv_2"
    assert manifest.arguments["recipe"]["macs_target"] == 1
    assert manifest.arguments["refinement"]["epochs"] == 2
    before, after = (manifest.metrics[key] for key in ("before", "after"))
    assert printed["composition"]["macs"] <= 1.05 * before["macs"]
    assert after["accuracy"] > before["accuracy"] - 0.05


@pytest.mark.long
def test_result_is_one_table(three_path, tmp_path, capsys):
    out = tmp_path / "store"
    options = ["--epochs", "2", "--batch-size", "64", "--mask-from", "conv_2"]
    options += ["--retention-target", "0.9", "--accuracy-budget", "0.9"]
    options += ["--macs-target", "9", "--refine-epochs", "1"]
    assert main(arguments(three_path, out, *options)) == 0
    out, err = capsys.readouterr()
    heading, *rows = [line.split() for line in out.splitlines()]
    assert heading == "on validation images source modules".split()
    metrics = load_store(tmp_path / "store").manifest.metrics
    before, after = metrics["before"], metrics["after"]
    gain = 100 * (after["accuracy"] - before["accuracy"])
    assert rows[0] == [
        "accuracy",
        f"{before['accuracy']:.1%}",
        f"{after['accuracy']:.1%}",
        f"{gain:+.1f}",
        "points",
    ]
    assert rows[1][2:] == ["100.0%", f"{after['retention_rate']:.1%}", "mean"]
    assert [row[0].strip(",") for row in rows] == (
        "accuracy kernels parameters parameters MACs MACs latency epoch "
        "calibrated"
    ).split()
    why = " ".join(rows[-2])
    assert re.match("epoch chosen [12] of 2 fewest kernels with ", why)
    # It came down to its target, so only another one would help.
    advice = err[err.index("What helps") :].splitlines()
    assert advice[1].startswith("- a lower --retention-target: ")
    assert "kmod check " in err and "kmod compose " in err


@pytest.fixture
def short_of_its_target(three_path):
    """What a run is like that keeps more kernels than it is told to."""
    source = keras.saving.load_model(three_path)
    modular = kmod.ModularModel(source, retention_target=0.4)
    modular.chosen_epoch = EpochModules(0, 0.9, 0.97, 0.93)
    options = ["modularize", str(three_path), "--data", "digits"]
    args = parser().parse_args([*options, "--out", "x"])
    return args, modular


def test_network_that_keeps_nearly_all_kernels_is_told_what_helps(
    short_of_its_target,
):
    args, modular = short_of_its_target
    chosen = modularize._chosen(args, modular)
    assert chosen["reason"] == "most accurate, none has 93.0%"
    figures = {"chosen_epoch": chosen}
    after = {"retention_rate": 0.97}
    figures["metrics"] = {"after": after, "before": {"macs": 100}}
    figures["composition"] = {"macs": 100}
    epochs, budget, mask_from = modularize._advice(args, modular, figures)
    assert epochs.startswith("--epochs 20, ")
    assert "more than 20.0% of accuracy" in epochs
    assert budget.startswith("--accuracy-budget 0.4, ")
    assert mask_from.startswith("--mask-from conv_2 --macs-target 1, ")
    figures["metrics"]["before"]["accuracy"] = 0.95
    after |= {"retention_rate": 0.85, "accuracy": 0.91}
    assert modularize._advice(args, modular, figures) == []


def test_modules_that_cost_too_much_are_told_what_helps(short_of_its_target):
    args, source = short_of_its_target
    modular = kmod.ModularModel(
        source.flat_source, retention_target=0.4, macs_target=1
    )
    modular.chosen_epoch = source.chosen_epoch
    figures = {
        "chosen_epoch": modularize._chosen(args, modular),
        "metrics": {
            "before": {"accuracy": 0.95, "macs": 100},
            "after": {"accuracy": 0.95, "retention_rate": 0.7},
        },
        "composition": {"macs": 101},
    }
    assert modularize._advice(args, modular, figures) == []
    figures["composition"]["macs"] = 273
    epochs, budget, *_ = modularize._advice(args, modular, figures)
    assert "more than 20.0% of accuracy" in epochs
    assert budget.startswith("--accuracy-budget 0.4, ")


def test_modules_that_lose_much_are_told_what_helps(short_of_its_target):
    args, modular = short_of_its_target
    after = {"retention_rate": 0.4, "accuracy": 0.25}
    figures = {"metrics": {"before": {"accuracy": 0.93}, "after": after}}
    epochs, target, mask_from = modularize._advice(args, modular, figures)
    assert epochs.startswith("--epochs 20, more --refine-epochs, or more ")
    assert target == "a higher --retention-target than 0.4"
    assert mask_from.startswith("--mask-from conv_2, ")


def test_long_spec_is_shown_by_its_first_classes(tmp_path):
    classes = [f"class {number}" for number in range(40)]
    text = spec_text(
        {
            "version": 1,
            "name": "many",
            "stores": {"s": {"path": "store"}},
            "classes": [
                {"name": name, "module": {"store": "s", "class": name}}
                for name in classes
            ],
        },
        tmp_path / "many.yaml",
    )
    (tmp_path / "many.yaml").write_text(modularize._shortened(text))
    spec = kmod.load_spec(tmp_path / "many.yaml")
    assert list(spec.class_names) == classes[:3]
    assert "40 classes" in modularize._shortened(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--recipe", "paper", "--retention-target", "0.5"],
            "`--retention-target` belongs to recipes",
            id="target-of-paper-recipe",
        ),
        pytest.param(
            ["--recipe", "paper", "--macs-target", "2"],
            "`--macs-target` belongs to recipes",
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
    three_path, tmp_path, capsys, options, message
):
    assert main(arguments(three_path, tmp_path / "store", *options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "store").exists()


def test_store_that_is_there_is_not_replaced(three_path, tmp_path, capsys):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/thesis.txt").write_text("dear")
    assert main(arguments(three_path, tmp_path / "store")) == 2
    assert "with `--overwrite`" in " ".join(capsys.readouterr().err.split())


def test_missing_source_exits_with_3(tmp_path, capsys):
    missing = str(tmp_path / "missing.keras")
    assert main(arguments(missing, tmp_path / "store")) == 3
    assert "missing.keras" in capsys.readouterr().err


SHORT = ["--epochs", "1", "--batch-size", "512", "--mask-from", "conv_2"]
SHORT += ["--refine-epochs", "1"]


@pytest.fixture(scope="module")
def killed_run(three_path, tmp_path_factory):
    """Runs the command until its store is in place and not a step further."""

    def end(directory):
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(run_directory, "discard_run", end)
        assert main(arguments(three_path, folder / "store", *SHORT)) == 130
    return folder


@pytest.fixture
def killed(killed_run, tmp_path):
    shutil.copytree(killed_run, tmp_path / "out")
    return tmp_path / "out/store"


# A shell's background jobs, such as these tests may be, ignore Ctrl-C.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from kmod.cli.main import main
sys.exit(main())
"""


@pytest.mark.long
def test_ctrl_c_says_how_to_go_on(three_path, tmp_path):
    run = tmp_path / ".store.run"
    call = arguments(str(three_path), tmp_path / "store", "--epochs", "500")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *call],
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while not list(run.glob("*.npz")) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == (
        f"kmod: interrupted. What it has reached is in '{run}': the same "
        "command with `--resume` goes on from there.\n"
    )


def test_ctrl_c_before_anything_is_reached(
    three_path, tmp_path, monkeypatch, capsys
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "load_model", interrupt)
    assert main(arguments(three_path, tmp_path / "store")) == 130
    assert capsys.readouterr().err == "kmod: interrupted.\n"


def contents(store):
    return {name: store.content(name) for name in store}


@pytest.mark.long
def test_run_whose_store_is_in_place_can_be_ended(three_path, killed, capsys):
    before = contents(load_store(killed))
    assert main(arguments(three_path, killed, *SHORT)) == 2
    assert "with `--overwrite`" in " ".join(capsys.readouterr().err.split())
    assert (
        main(arguments(three_path, killed, *SHORT, "--resume", "--json")) == 0
    )
    assert len(json.loads(capsys.readouterr().out)["modules"]) == 3
    assert contents(load_store(killed)) == before
    assert [path.name for path in killed.parent.iterdir()] == ["store"]


def test_store_of_another_run_is_not_replaced(three_path, killed, capsys):
    run = killed.with_name(".store.run")
    identity = json.loads((run / "run.json").read_text())["identity"]
    run_directory.open_run(run, {**identity, "seed": 1}, resume=False)
    assert main(arguments(three_path, killed, *SHORT, "--resume")) == 2
    assert "with `--overwrite`" in " ".join(capsys.readouterr().err.split())


def test_another_source_is_not_resumed(three_path, killed, tmp_path, capsys):
    other = keras.saving.load_model(three_path)
    weight = other.weights[0]
    weight.assign(weight + 1e-6)
    other.save(tmp_path / "source.keras")
    call = arguments(str(tmp_path / "source.keras"), killed, *SHORT)
    before = contents(load_store(killed))
    assert main([*call, "--resume"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "Received: different source model, for the run in" in message
    assert contents(load_store(killed)) == before


@pytest.mark.long
def test_users_file_survives_in_the_run_directory(
    three_path, tmp_path, monkeypatch, capsys
):
    run = tmp_path / ".store.run"
    discard = run_directory.discard_run

    def add_and_discard(directory):
        (directory / "mine.txt").write_text("mine")
        discard(directory)

    monkeypatch.setattr(run_directory, "discard_run", add_and_discard)
    call = arguments(three_path, tmp_path / "store", *SHORT, "--resume")
    assert main(call) == 0
    assert "has no run to go on with" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["mine.txt"]
    call = arguments(three_path, tmp_path / "store", *SHORT, "--overwrite")
    assert main(call) == 2
    assert "holds 'mine.txt'" in " ".join(capsys.readouterr().err.split())


def test_damaged_run_exits_with_3(three_path, tmp_path, capsys):
    run = tmp_path / ".store.run"
    run.mkdir()
    (run / "run.json").write_text("{")
    assert main(arguments(three_path, tmp_path / "store", "--resume")) == 3
    assert "which is damaged" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("--seed", "-1", "from 0 to 4294967295"),
        ("--seed", "4294967296", "from 0 to 4294967295"),
        ("--license", "(((", "an SPDX expression"),
        ("--batch-size", "9" * 5000, "of at least 1"),
    ],
    ids=["negative-seed", "large-seed", "licence", "digits"],
)
def test_values_are_refused_before_any_work(option, value, accepted, capsys):
    given = ["modularize", "s.keras", "--data", "digits", "--out", "o"]
    with pytest.raises(SystemExit) as caught:
        main([*given, option, value])
    assert caught.value.code == 2
    assert accepted in capsys.readouterr().err
