import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import kmod
from kmod import errors
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
        pytest.param(OSError("disk"), 3, "kmod: disk\n", id="os-error"),
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
    "argv", [[], ["nonsense"], ["check"], ["check", "--nonsense", "a.yaml"]]
)
def test_wrong_usage_exits_2(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: kmod")


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"kmod {kmod.__version__}\n"


@pytest.mark.parametrize(
    ("processor", "given", "expected"),
    [
        pytest.param("x86_64", None, "1", id="on"),
        pytest.param("x86_64", "0", "0", id="as-the-user-says"),
        pytest.param("arm64", None, None, id="other-processor"),
    ],
)
def test_onednn_is_on(monkeypatch, processor, given, expected):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given or "")
    if given is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    monkeypatch.setattr("platform.machine", lambda: processor)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == expected


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


def test_check_takes_under_a_second(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("version: 1\n")
    seconds = []
    for _ in range(3):  # The machine may be busy with something else.
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "kmod", "check", path], capture_output=True
        )
        seconds.append(time.monotonic() - start)
        assert done.returncode == 2
    assert min(seconds) < 1
