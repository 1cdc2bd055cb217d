import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

# Writes to file descriptor 2 what TensorFlow does, and what it must not hide.
TENSORFLOW = """
import os, subprocess, sys
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called"
    b" are written to STDERR\\n")
for severity in "IWEF":
    line = f"{severity}0000 00:00:1700000000.1  7 port.cc:1] {severity}\\n"
    os.write(2, line.encode())
os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\\n")
os.write(2, b"fully_quantize: 0, inference_type: 6, input_inference_type: "
    b"FLOAT32, output_inference_type: FLOAT32\\n")
os.write(2, b"free(): invalid pointer\\n")
words = "I0000 00:00:1700.1 7 child\\nspawned\\n"
code = f"import sys; sys.stderr.write({words!r})"
subprocess.run([sys.executable, "-c", code])
"""
PROGRAM = """
import sys
from kmod.cli.framework_lines import hide_framework_lines
hide_framework_lines()
print("before", file=sys.stderr)
import tensorflow
"""


@pytest.fixture
def run(tmp_path):
    """Runs a program beside a package that stands in for TensorFlow."""
    (tmp_path / "tensorflow.py").write_text(TENSORFLOW)

    def run(code, level):
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": level}
        path = str(tmp_path), *sys.path
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}{code}"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        return done.returncode, done.stderr.splitlines()

    return run


@pytest.mark.parametrize(
    ("level", "shown"),
    [("3", "F"), ("2", "EF"), ("1", "WEF")],
)
def test_lines_are_hidden_as_far_as_the_level_says(run, level, shown):
    code, lines = run(PROGRAM, level)
    assert code == 0
    assert "".join(x[0] for x in lines if " port.cc:1] " in x) == shown
    others = [line for line in lines if " port.cc:1] " not in line]
    assert others == ["before", "free(): invalid pointer", "spawned"]


@pytest.mark.parametrize("level", ["0", "", "high"])
def test_other_levels_show_everything(run, level):
    code, lines = run(PROGRAM, level)
    assert code == 0
    assert len(lines) == 11
    assert "I0000 00:00:1700.1 7 child" in lines


def test_a_crash_shows_its_last_words(run):
    crash = "import os; os.write(2, b'F0000 00:00:1.1 7 no AVX'); os.abort()"
    code, lines = run(PROGRAM + crash, "3")
    assert code < 0
    assert lines[-1] == "F0000 00:00:1.1 7 no AVX"


def test_python_speaks_to_the_terminal_itself(run):
    late = "print('I0000 00:00:1.1 7 mine', file=sys.stderr)"
    _, lines = run(PROGRAM + late, "3")
    assert "I0000 00:00:1.1 7 mine" in lines


@pytest.fixture(scope="module")
def inspect(three_path):
    """Runs a command that loads a model; returns its exit code and stderr."""

    def inspect(*options, **changes):
        env = {k: v for k, v in os.environ.items() if k[:6] != "TF_CPP"}
        done = subprocess.run(
            [sys.executable, "-m", "kmod", "inspect", three_path, *options],
            env={**env, **changes},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    return inspect


def test_command_says_nothing_of_tensorflow(inspect):
    assert inspect("--quiet") == ""
    said = inspect()
    assert said.startswith("next, with the images")
    # What a command says itself begins, or goes on, as no line of theirs does.
    assert not re.search(r"^(WARNING|[IWEF]\d{4} )", said, re.MULTILINE)


def test_user_may_hear_what_tensorflow_says(inspect):
    assert "I0000 " in inspect(TF_CPP_MIN_LOG_LEVEL="0")
    assert "I0000 " in inspect("--verbose")
