import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kmod.errors import ArtifactError
from kmod.files import atomic_directory
from kmod.files import claim
from kmod.files import claimed
from kmod.files import claims
from kmod.files import claims_scope

ROOT = Path(claims.__file__).parents[2]
HOLDER = """
import sys
from kmod.files import claimed
with claimed(sys.argv[1]):
    print("claimed", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(
    claims.fcntl is None, reason="needs locks of POSIX"
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def holder(out):
    """Another process that has claimed the output."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout.readline() == b"claimed\n"
    yield process
    process.kill()
    process.communicate()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_output_of_another_process_is_refused(out, holder):
    message = f"'{out}', locked by process {holder.pid}. Wait until"
    with pytest.raises(ArtifactError, match=message) as caught:
        with claimed(out):
            pass
    assert caught.value.exit_code == 3
    with pytest.raises(ArtifactError, match=message):
        with atomic_directory(out):
            pass
    assert names(out.parent) == [".out.claim"]
    with claimed(out.with_name("other")):  # Another output is free.
        pass
    holder.communicate()
    with claimed(out):
        assert names(out.parent) == [".out.claim"]
    assert names(out.parent) == []


def test_claim_ends_with_its_process(out, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert names(out.parent) == [".out.claim"]
    with atomic_directory(out) as temporary:
        (temporary / "file").touch()
    assert names(out.parent) == ["out"]


def test_claim_of_a_scope_is_kept_for_what_is_made_in_it(out):
    with claims_scope():
        claim(out)
        with atomic_directory(out) as temporary:
            (temporary / "file").touch()
        assert names(out.parent) == [".out.claim", "out"]
    assert names(out.parent) == ["out"]


def test_nothing_is_claimed_without_a_scope_or_a_folder(out):
    claim(out)
    with claims_scope():
        claim(out / "deep" / "er")
    assert names(out.parent) == []


@pytest.mark.parametrize("content", ["dear", "kmod, process 1\nand mine"])
def test_users_file_of_that_name_stays(out, content):
    file = out.with_name(".out.claim")
    file.write_text(content)
    with pytest.raises(ArtifactError, match="which is no file of kmod"):
        with claimed(out):
            pass
    assert file.read_text() == content


def test_link_of_that_name_is_not_followed(out):
    out.with_name("thesis").write_text("")
    out.with_name(".out.claim").symlink_to("thesis")
    with pytest.raises(OSError, match=f"'{out}'"):
        with claimed(out):
            pass
    assert names(out.parent) == [".out.claim", "thesis"]


def test_claim_that_its_owner_is_just_removing_is_made_anew(out, monkeypatch):
    """Between the opening of the file and its lock, the owner goes."""
    lock, removed = claims.fcntl.flock, []

    def remove_first(descriptor, operation):
        if not removed:
            removed.append(out.with_name(".out.claim").unlink())
        lock(descriptor, operation)

    monkeypatch.setattr(claims.fcntl, "flock", remove_first)
    with claimed(out):
        file = out.with_name(".out.claim")
        assert file.read_text() == f"kmod, process {os.getpid()}\n"
    assert removed and names(out.parent) == []
