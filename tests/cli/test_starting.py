import json
import os
import subprocess
import sys

import pytest

LOOKED_FOR = ("sklearn", "matplotlib", "IPython", "jax")
# Stands in for a framework: imports what it finds.
FRAMEWORK = "".join(
    f"try:\n    import {name}\nexcept ImportError:\n    {name} = None\n"
    for name in LOOKED_FOR
)
HIDE = """
from kmod.cli.starting import leave_out_imports
leave_out_imports()
"""
TELL = f"""
import json
print(json.dumps([name for name in {LOOKED_FOR} if name in sys.modules]))
"""


def found_by(code, *folders):
    """Returns which packages are there once a program has run."""
    path = [*map(str, folders), *sys.path]
    code = f"import sys; sys.path[:] = {path!r}\n{code}{TELL}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture
def packages(tmp_path):
    """A folder of packages that stand in for the frameworks and the rest."""
    for name in LOOKED_FOR:
        (tmp_path / f"{name}.py").write_text("")
    for name in ("keras", "tensorflow", "own_layers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "parts.py").write_text(FRAMEWORK)
    return tmp_path


def test_frameworks_do_not_find_what_they_do_without(packages):
    assert found_by("import keras.parts", packages) == list(LOOKED_FOR)
    found = found_by(f"{HIDE}import keras.parts", packages)
    assert found == ["jax"]  # Its backend.
    found = found_by(f"{HIDE}import tensorflow.parts", packages)
    assert found == ["sklearn", "matplotlib", "IPython"]


def test_others_find_all(packages):
    code = f"{HIDE}import keras.parts, tensorflow.parts, own_layers.parts"
    assert found_by(code, packages) == list(LOOKED_FOR)


def test_real_frameworks_go_without():
    assert found_by(f"{HIDE}import tensorflow, keras.wrappers") == []


def test_workers_go_without():
    """What is given is no task, and refused once Keras is there."""
    code = """
import sys
from kmod.cli.job_tasks import TaskRunner
for _ in range(2):
    try:
        TaskRunner(None)(None)
    except AttributeError:
        pass
names = [type(finder).__name__ for finder in sys.meta_path]
assert names.count("_Unused") == 1, names
import keras.wrappers, tensorflow
"""
    assert found_by(code) == []


@pytest.mark.parametrize("is_program", [True, False])
def test_only_programs_collect_less_often(is_program):
    words = "" if is_program else "['schema', '--markdown']"
    code = f"""
import contextlib, gc, io, sys
from kmod.cli.main import main
sys.argv = ["kmod", "schema", "--markdown"]
before = gc.get_threshold()
with contextlib.redirect_stdout(io.StringIO()):
    assert main({words}) == 0
after = gc.get_threshold()
assert (after[0] > 10 * before[0]) == {is_program}, after
assert after[1:] == before[1:]
"""
    found_by(code)
