import json
import subprocess
import sys

import pytest

from kmod.cli.main import main

SPEC = """\
version: 1
name: two
stores: {digits: {path: PATH}}
classes:
  - {name: one, module: {store: digits, class: 1}}
  - {name: eight, module: {store: digits, class: 8}}
"""


@pytest.fixture
def spec_path(store, tmp_path):
    folder = store.path.parent / tmp_path.name
    folder.mkdir()
    path = folder / "two.yaml"
    path.write_text(SPEC.replace("PATH", f"../{store.path.name}"))
    return path


def test_lock_and_check(spec_path, store, capsys):
    lock = spec_path.with_name("two.lock.yaml")
    assert main(["lock", str(spec_path)]) == 0
    assert capsys.readouterr() == (f"{lock}: written\n", "")
    assert store.digest in lock.read_text()
    assert main(["lock", str(spec_path), "--check"]) == 0
    assert capsys.readouterr().out == f"{lock}: is up to date\n"
    assert main(["lock", str(spec_path), "--check", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["stores"]["digits"]["digest"] == store.digest


def test_check_writes_nothing(spec_path, capsys):
    assert main(["lock", str(spec_path), "--check"]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "Write it with `kmod lock two.yaml`" in err
    assert not spec_path.with_name("two.lock.yaml").exists()


def test_compose_refuses_drift(spec_path, capsys):
    compose = ["compose", str(spec_path), "--dry-run", "--locked"]
    assert main(compose) == 5
    assert main(["lock", str(spec_path)]) == 0
    assert main(compose) == 0
    spec_path.write_text(spec_path.read_text().replace("class: 8", "class: 7"))
    capsys.readouterr()
    assert main(compose) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "stores.digits.modules.8 is not used, locked as sha256:" in err
    assert "stores.digits.modules.7 is sha256:" in err


def test_sources_must_be_there(spec_path, capsys):
    spec_path.write_text(spec_path.read_text().replace("class: 8", "class: 88"))
    assert main(["lock", str(spec_path)]) == 3
    assert f"{spec_path}:6:50: store 'digits'" in capsys.readouterr().err


def test_lock_needs_no_keras(spec_path):
    code = (
        "import sys\n"
        "from kmod.cli.main import main\n"
        f"code = main(['lock', {str(spec_path)!r}])\n"
        "slow = {'keras', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(str((code, slow)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stderr == "(0, set())\n"
