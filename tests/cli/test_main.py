import argparse
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import kmod
from kmod import errors
from kmod.cli import console
from kmod.cli import main as main_module
from kmod.cli.main import main
from kmod.files.plain_yaml import Fault
from kmod.spec.faults import InvalidSpecError

SLOW_PACKAGES = ("tensorflow", "keras", "numpy", "jax", "sklearn")


def raising(error):
    """Stands in for a command that fails."""

    def add_parser(subparsers):
        def run(args):
            raise error

        subparsers.add_parser("fail").set_defaults(run=run)

    return SimpleNamespace(add_parser=add_parser)


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        pytest.param(errors.UsageError("x"), 2, "kmod: x\n", id="usage"),
        pytest.param(
            InvalidSpecError("a.yaml", [Fault(1, 1, "x")]),
            2,
            "a.yaml:1:1: x\n",
            id="spec",
        ),
        pytest.param(
            errors.UnsupportedModelError("x"), 3, "kmod: x\n", id="unsupported"
        ),
        pytest.param(errors.ArtifactError("x"), 3, "kmod: x\n", id="artifact"),
        pytest.param(
            errors.IntegrityError("[x]"), 4, "kmod: [x]\n", id="integrity"
        ),
        pytest.param(errors.CheckError("x"), 5, "kmod: x\n", id="check"),
        pytest.param(
            FileNotFoundError(2, "No such file", "a.keras"),
            3,
            "kmod: a.keras: No such file.\n",
            id="missing-file",
        ),
        pytest.param(OSError("disk"), 3, "kmod: disk.\n", id="os-error"),
        pytest.param(
            KeyboardInterrupt(), 130, "kmod: interrupted.\n", id="interrupt"
        ),
        pytest.param(
            RuntimeError("a\nb"),
            1,
            "kmod: unexpected RuntimeError: a (--debug shows the traceback)\n",
            id="unexpected",
        ),
    ],
)
def test_exit_code_and_message(monkeypatch, capsys, error, exit_code, message):
    monkeypatch.setattr(main_module, "COMMANDS", (raising(error),))
    assert main(["fail"]) == exit_code
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("argv", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback(monkeypatch, capsys, argv):
    error = errors.UsageError("x")
    monkeypatch.setattr(main_module, "COMMANDS", (raising(error),))
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("kmod: x\n")


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["note"], "Saved.\n"),
        (["note", "--quiet"], ""),
        (["-q", "note"], ""),
        (["note", "-v"], "Saved.\n"),
    ],
)
def test_how_much_is_said(monkeypatch, capsys, argv, shown):
    def add_parser(subparsers):
        parser = subparsers.add_parser("note")
        parser.set_defaults(run=lambda args: console.print_note("Saved."))

    command = SimpleNamespace(add_parser=add_parser)
    monkeypatch.setattr(main_module, "COMMANDS", (command,))
    main(argv)
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["check"],
        ["check", "--nonsense", "a.yaml"],
        ["-q", "check", "a.yaml", "-v"],
    ],
)
def test_wrong_usage_exits_2(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: kmod")


def test_every_argument_has_a_help_text():
    (commands,) = (
        action.choices
        for action in main_module.build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert len(commands) > 15
    silent = [
        (name, action.option_strings or action.dest)
        for name, parser in commands.items()
        for action in parser._actions
        if not action.help
    ]
    assert silent == []


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"kmod {kmod.__version__}\n"


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("TF_ENABLE_ONEDNN_OPTS", "1"),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384"),
    ],
)
@pytest.mark.parametrize("given", [None, "0"], ids=["default", "given"])
@pytest.mark.parametrize("processor", ["x86_64", "arm64"])
def test_onednn_is_on_and_keeps_what_it_compiles(
    monkeypatch, processor, given, name, default
):
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    monkeypatch.setattr("platform.machine", lambda: processor)
    with pytest.raises(SystemExit):
        main(["--version"])
    expected = given or (default if processor == "x86_64" else None)
    assert os.environ.get(name) == expected


@pytest.mark.parametrize(
    "argv", [["--help"], ["schema"], ["check", "nope.yaml"], ["--version"]]
)
def test_light_commands_import_nothing_slow(argv):
    code = (
        "import sys\n"
        "from kmod.cli.main import main\n"
        "try:\n"
        f"    main({argv!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"sys.exit(str([m for m in {SLOW_PACKAGES} if m in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


MODEL, STORE, DATA = "model.keras", "store", "digits:validation"
JOBS = """\
version: 1
out: new
data: {name: digits}
sources: [{model: no.keras}]
"""
# What each command is given that it can refuse at once, and in which words.
REFUSED = {
    "compose-slim-alone": (
        ["compose", "spec.yaml", "--out", "new", "--slim", "0.5"],
        2,
        "`--slim` and `--data` go together",
    ),
    "compose-slim-much": (
        [
            *("compose", "spec.yaml", "--out", "new"),
            *("--slim", "2", "--data", "digits"),
        ],
        2,
        "`--slim` must be above 0 and below 1",
    ),
    "compose-unslimmed": (
        ["compose", "spec.yaml", "--out", "new", "--epochs", "3"],
        2,
        "Received: --epochs without --slim. Leave it out",
    ),
    "compose-unslimmed-seed": (
        ["compose", "spec.yaml", "--out", "new", "--seed", "0"],
        2,
        "Received: --seed without --slim. Leave it out",
    ),
    "compose-dry-run": (
        ["compose", "spec.yaml", "--dry-run", "--format", "keras"],
        2,
        "Received: --format with --dry-run. Leave one of them out.",
    ),
    "inspect-missing": (["inspect", "modle.keras"], 3, "Did you mean 'model"),
    "inspect-folder": (["inspect", "empty"], 3, "A directory of kmod holds"),
    "modularize-missing": (
        ["modularize", "q", "--data", "digits", "--out", "new"],
        3,
        "'q', which does not exist. Look at the path",
    ),
    "modularize-out": (
        ["modularize", MODEL, "--data", "digits", "--out", "full"],
        2,
        "which holds files. Choose another name, or allow "
        "what kmod wrote there to be replaced with `--overwrite`.",
    ),
    "modularize-overwrite": (
        ["modularize", MODEL, "--data", "digits"]
        + ["--out", "full", "--overwrite"],
        2,
        "Only a directory that kmod wrote can be overwritten.",
    ),
    "modularize-data": (
        ["modularize", MODEL, "--data", "./no", "--out", "new"],
        3,
        "Received: './no', which is not there.",
    ),
    "modularize-target": (
        ["modularize", MODEL, "--data", "digits", "--out", "new"]
        + ["--retention-target", "2"],
        2,
        "`--retention-target` must be above 0 and at most 1. Received: "
        "--retention-target 2.0",
    ),
    "modularize-recipe": (
        ["modularize", MODEL, "--data", "digits", "--out", "new"]
        + ["--recipe", "paper", "--macs-target", "2"],
        2,
        "`--macs-target` belongs to recipes with a retention target, such as "
        "'default'. Received: --macs-target 2.0, --recipe 'paper'.",
    ),
    "modularize-budget": (
        ["modularize", MODEL, "--data", "digits", "--out", "new"]
        + ["--accuracy-budget", "-1"],
        2,
        "`--accuracy-budget` must be at least 0 and below 1.",
    ),
    "modularize-search": (
        ["modularize", MODEL, "--data", "digits", "--out", "new"]
        + ["--method", "cnnsplitter", "--population", "2"],
        2,
        "`--population` must be at least 4",
    ),
    "modularize-epochs": (
        ["modularize", MODEL, "--data", "digits", "--out", "new"]
        + ["--epochs", "0"],
        2,
        "argument --epochs: must be a whole number of at least 1.",
    ),
    "jobs-missing": (["jobs", "no.yaml"], 3, "no.yaml: No such file"),
    "jobs-model": (
        ["jobs", "jobs.yaml"],
        3,
        "no.keras', which does not exist. Look at the path",
    ),
    "slim-missing": (
        ["slim", "modle.keras", "--data", "digits", "--out", "new"],
        3,
        "Did you mean 'model.keras'?",
    ),
    "slim-test": (
        ["slim", MODEL, "--data", "digits", "--test", "no", "--out", "new"],
        2,
        "Data are named NAME:SPLIT",
    ),
    "slim-classes": (
        ["slim", "composed", "--data", "digits", "--unlabelled"]
        + ["--classes", "a,b", "--out", "new"],
        2,
        "Received: --classes a,b for 'composed'. Leave it out;",
    ),
    "slim-own-images": (
        ["slim", MODEL, "--data", "digits", "--test", "digits:validation"]
        + ["--out", "new"],
        2,
        "did not learn from. Received: --data digits --test digits:validation.",
    ),
    "dependence-missing": (
        ["dependence", "no", "--data", "digits"],
        3,
        "Received: 'no', which does not exist.",
    ),
    "dependence-out": (
        ["dependence", STORE, "--data", "digits", "--out", "full/thesis.txt"],
        2,
        "Received: 'full/thesis.txt', which is there.",
    ),
    "dependence-data": (
        ["dependence", STORE, "--data", "./no"],
        3,
        "Received: './no', which is not there.",
    ),
    "dependence-limit": (
        ["dependence", STORE, "--data", "digits", "--limit", "-1"],
        2,
        "argument --limit: must be a number from 0 to 1. Received: '-1'",
    ),
    "refine-missing": (
        ["refine", "no", MODEL, "--data", "digits", "--out", "new"],
        3,
        "A module store is a directory with the file 'store.yaml'.",
    ),
    "choose-out": (
        ["choose", "--class", "a", "--store", STORE, "--data", DATA]
        + ["--out", "full/thesis.txt"],
        2,
        "be replaced with `--overwrite`.",
    ),
    "choose-store": (
        ["choose", "--class", "a", "--store", "no", "--data", DATA]
        + ["--out", "new.yaml"],
        3,
        "A module store is a directory with the file 'store.yaml'.",
    ),
    "choose-images": (
        ["choose", "--class", "a", "--store", STORE, "--data", DATA]
        + ["--out", "new.yaml", "--images-per-class", "0"],
        2,
        "argument --images-per-class: must be a whole number of at least 1.",
    ),
    "choose-budget": (
        ["choose", "--class", "a", "--store", STORE, "--data", DATA]
        + ["--out", "new.yaml", "--macs-budget", "nan"],
        2,
        "argument --macs-budget: must be a number above 0, such as 5e6. "
        "Received: 'nan'",
    ),
    "choose-budget-alone": (
        ["choose", "--class", "a", "--store", "no", "--out", "new.yaml"]
        + ["--macs-budget", "5e6"],
        2,
        "Received: --macs-budget without --data.",
    ),
    "compose-out": (
        ["compose", "spec.yaml", "--out", "full"],
        2,
        "Choose another name, or allow what kmod wrote there to be replaced "
        "with `--overwrite`.",
    ),
    "compose-missing": (["compose", "no.yaml", "--out", "new"], 3, "no.yaml"),
    "patch-missing": (
        ["patch", "no.keras", "--donor", "no", "--data", DATA]
        + ["--out", "new"],
        3,
        "'no.keras', which does not exist.",
    ),
    "patch-donor": (
        ["patch", MODEL, "--donor", "no:cat", "--data", DATA, "--out", "new"]
        + ["--target-class", "cat"],
        3,
        "A module store is a directory with the file 'store.yaml'. Received: "
        "'no', which does not exist. Give the directory",
    ),
    "patch-folder": (
        ["patch", "empty", "--donor", "no", "--data", DATA, "--out", "new"],
        3,
        "The weak model is a `.keras` file, which the spec names. Received: "
        "'empty', a directory.",
    ),
    "patch-take": (
        ["patch", MODEL, "--donor", "no", "--data", DATA, "--out", "new"]
        + ["--take", "donor-insted"],
        2,
        "'regression-on-both', 'donor-instead']. Received: --take donor-insted",
    ),
    "patch-class": (
        ["patch", MODEL, "--donor", "no:cat", "--data", DATA, "--out", "new"],
        2,
        "STORE:CLASS names the module for one target. Received: 0 times",
    ),
    "evaluate-missing": (
        ["evaluate", "no.keras", "--data", DATA],
        3,
        "'no.keras', which does not exist.",
    ),
    "evaluate-split": (
        ["evaluate", MODEL, "--data", "digits"],
        2,
        "Data are named NAME:SPLIT",
    ),
    "export-missing": (
        ["export", "no", "--format", "onnx", "--out", "new"],
        3,
        "'no', which does not exist.",
    ),
    "export-out": (
        ["export", MODEL, "--format", "onnx", "--out", "full"],
        2,
        "`--overwrite`.",
    ),
    "export-agreement": (
        ["export", MODEL, "--format", "litert", "--out", "new"]
        + ["--least-agreement", "0.9"],
        2,
        "Received: --least-agreement 0.9 without --quantize.",
    ),
    "export-serving": (
        ["export", MODEL, "--format", "savedmodel", "--out", "new"]
        + ["--serving", "--overwrite"],
        2,
        "Received: --serving with --overwrite.",
    ),
    "evaluate-size": (
        ["evaluate", MODEL, "--data", DATA, "--image-size", "0", "0"],
        2,
        "argument --image-size: must be a whole number of at least 1.",
    ),
    "import-missing": (
        ["import", "no.keras", "--class", "3", "--data", "digits"]
        + ["--out", "new"],
        3,
        "'no.keras', which does not exist.",
    ),
    "import-out": (
        ["import", MODEL, "--class", "3", "--data", "digits", "--out", "full"],
        2,
        "with `--overwrite`.",
    ),
    "report-missing": (["report", "modle.keras"], 3, "Did you mean 'model"),
    "report-folder": (["report", "empty"], 3, "which is neither"),
    "report-out": (
        ["report", "empty", "--out", "full/thesis.txt"],
        2,
        "be replaced with `--overwrite`.",
    ),
    "report-overwrite": (
        ["report", "empty", "--out", "full/thesis.txt", "--overwrite"],
        2,
        "Only a file that kmod wrote and nobody edited can be overwritten.",
    ),
    "report-data": (
        ["report", "empty", "--data", "./no"],
        3,
        "Received: './no', which is not there.",
    ),
    "test-missing": (["test", "no"], 3, "'no', which does not exist."),
    "test-contract": (
        ["test", "empty", "--contract", "no.yaml"],
        3,
        "no.yaml: No such file",
    ),
    "test-junit": (
        ["test", "empty", "--junit", "full/thesis.txt"],
        2,
        "replaces only what `kmod test` wrote. Received: 'full/thesis.txt'",
    ),
    "export-overwrite": (
        ["export", MODEL, "--format", "onnx", "--out", "full", "--overwrite"],
        2,
        "Only a directory that kmod wrote can be overwritten.",
    ),
    "demo-out": (["demo", "--out", "full"], 2, "`--overwrite`."),
    "demo-overwrite": (
        ["demo", "--out", "full", "--overwrite"],
        2,
        "Only a directory that kmod wrote can be overwritten.",
    ),
}


@pytest.mark.parametrize(
    ("argv", "exit_code", "message"), REFUSED.values(), ids=REFUSED
)
def test_typing_mistakes_are_told_before_tensorflow_is_imported(
    tmp_path, argv, exit_code, message
):
    (tmp_path / "model.keras").write_text("")
    (tmp_path / "jobs.yaml").write_text(JOBS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("dear")
    (tmp_path / "composed").mkdir()
    (tmp_path / "composed/composition.yaml").write_text("")
    code = (
        "import sys\n"
        "from kmod.cli.main import main\n"
        "try:\n"
        f"    code = main({argv!r})\n"
        "except SystemExit as error:\n"
        "    code = error.code\n"
        "slow = [m for m in ('tensorflow', 'keras') if m in sys.modules]\n"
        "print(slow, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == exit_code, done.stderr
    *lines, slow = done.stderr.splitlines()
    assert message in " ".join(" ".join(lines).split())
    assert slow == "[]"
    assert "=True" not in done.stderr


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            "`mask_from` must be a layer. Received: mask_from='x', seed=1",
            "`--mask-from` must be a layer. Received: --mask-from 'x', "
            "--seed 1",
            id="values",
        ),
        pytest.param(
            "with mask_from=None. Not my_seed=1 or `my_seed`.",
            "with no --mask-from. Not my_seed=1 or `my_seed`.",
            id="none-and-longer-names",
        ),
        pytest.param(
            "be replaced with `overwrite=True` (`--overwrite`).",
            "be replaced with `--overwrite`.",
            id="both-words",
        ),
    ],
)
def test_errors_speak_the_words_of_the_command_line(
    monkeypatch, capsys, message, expected
):
    def add_parser(subparsers):
        raising(errors.UsageError(message)).add_parser(subparsers)
        parser = subparsers.choices["fail"]
        parser.add_argument("--mask-from")
        parser.add_argument("--seed")
        parser.add_argument("--overwrite", action="store_true")

    command = SimpleNamespace(add_parser=add_parser)
    monkeypatch.setattr(main_module, "COMMANDS", (command,))
    assert main(["fail"]) == 2
    assert capsys.readouterr().err == f"kmod: {expected}\n"


def test_spec_errors_keep_the_words_of_the_spec(monkeypatch, capsys):
    def add_parser(subparsers):
        error = InvalidSpecError("a.yaml", [Fault(1, 1, "`seed` is no key")])
        raising(error).add_parser(subparsers)
        subparsers.choices["fail"].add_argument("--seed")

    command = SimpleNamespace(add_parser=add_parser)
    monkeypatch.setattr(main_module, "COMMANDS", (command,))
    assert main(["fail"]) == 2
    assert "`seed` is no key" in capsys.readouterr().err


def test_check_takes_under_a_second(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("version: 1\n")
    # Of the processor: the machine may be busy with something else.
    start = sum(os.times()[2:4])
    done = subprocess.run(
        [sys.executable, "-m", "kmod", "check", path], capture_output=True
    )
    assert done.returncode == 2
    assert sum(os.times()[2:4]) - start < 1


def test_no_package_is_imported_from_the_working_directory(tmp_path):
    (tmp_path / "rich.py").write_text("raise SystemExit(99)")
    command = [sys.executable, "-m", "kmod", "--version"]
    path = {"PYTHONPATH": str(Path(kmod.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **path})
    assert done.returncode == 0
