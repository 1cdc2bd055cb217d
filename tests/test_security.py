"""What SECURITY.md shows works as it is shown."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
has_package = all(
    importlib.util.find_spec(name) for name in ("model_signing", "OpenSSL")
)


@pytest.fixture
def shown(tmp_path):
    """Runs commands where a store lies at the path that is shown."""
    shutil.copytree(ROOT / "tests/golden/store", tmp_path / "modules/digits")

    def shown(commands):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        packages = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": packages}
        return subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    return shown


@pytest.mark.long
@pytest.mark.parametrize(
    ("sign", "verify"),
    [
        pytest.param(
            *BLOCKS[:2],
            id="model-signing",
            marks=pytest.mark.skipif(
                not has_package, reason="needs model-signing and pyopenssl"
            ),
        ),
        pytest.param(
            *BLOCKS[2:],
            id="openssh",
            marks=pytest.mark.skipif(
                shutil.which("ssh-keygen") is None, reason="needs ssh-keygen"
            ),
        ),
    ],
)
def test_signed_store_is_told_from_a_changed_one(shown, tmp_path, sign, verify):
    for commands in (sign, verify):
        done = shown(commands)
        assert done.returncode == 0, done.stderr
    weights = tmp_path / "modules/digits/three/variables"
    (path,) = weights.glob("*.data*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert shown(verify).returncode != 0


def test_keras_is_bounded_on_both_sides():
    config = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert re.search(r"^    keras>=3\.15\.1,<3\.\d+$", config, re.MULTILINE)
