import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import atomic
from kmod.files import atomic_directory
from kmod.files import atomic_write
from kmod.files import check_output
from kmod.files import check_output_file
from kmod.files import read_again_if_replaced
from kmod.files import read_files
from kmod.files import seal

ROOT = Path(atomic.__file__).parents[2]
KILLED_SAVE = """
import os, signal, sys
from kmod.files import atomic_directory, read_files
with atomic_directory(sys.argv[1], True, read_files) as directory:
    (directory / "store.yaml").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from kmod.files import atomic
from kmod.files import atomic_directory, read_files
atomic._exchange = lambda *_: False
rename = os.rename
def rename_and_die(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename_and_die
with atomic_directory(sys.argv[1], True, read_files) as directory:
    (directory / "store.yaml").write_text("new")
"""
KILLED_AFTER_EXCHANGE = """
import os, signal, sys
from kmod.files import atomic
from kmod.files import atomic_directory, read_files
exchange = atomic._exchange
def exchange_and_die(*paths):
    assert exchange(*paths)
    os.kill(os.getpid(), signal.SIGKILL)
atomic._exchange = exchange_and_die
with atomic_directory(sys.argv[1], True, read_files) as directory:
    (directory / "store.yaml").write_text("new")
"""
# A manifest that lists whatever is there.
OURS = {"listing": read_files}


def write_store(path, text="old", **kwargs):
    with atomic_directory(path, **OURS | kwargs) as directory:
        (directory / "deep").mkdir()
        (directory / "deep" / "file").write_text(text)
        (directory / "store.yaml").write_text(text)


def run_and_die(program, path):
    result = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "store"
    write_store(path)
    return path


def names(directory):
    return sorted(item.name for item in directory.iterdir())


def test_directory_appears_at_the_end_with_its_parents(tmp_path):
    path = tmp_path / "a" / "store"
    with atomic_directory(path) as directory:
        (directory / "store.yaml").write_text("new")
        assert not path.exists()
    assert (path / "store.yaml").read_text() == "new"
    assert names(path.parent) == ["store"]


def test_directory_has_usual_permissions(old):
    plain = old.with_name("plain")
    plain.mkdir()
    assert old.stat().st_mode == plain.stat().st_mode


def test_overwrite_replaces_all(old):
    with atomic_directory(old, True, read_files) as directory:
        (directory / "store.yaml").write_text("new")
    assert names(old) == ["store.yaml"]
    assert names(old.parent) == ["store"]


def test_empty_directory_may_be_used(tmp_path):
    write_store(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    write_store(tmp_path / "empty")
    assert names(tmp_path / "empty") == ["deep", "store.yaml"]


def test_link_to_a_directory_is_followed(old):
    link = old.with_name("link")
    link.symlink_to(old)
    write_store(link, "new", overwrite=True)
    assert link.is_symlink()
    assert (old / "store.yaml").read_text() == "new"


def test_existing_directory_is_not_replaced_unasked(old):
    with pytest.raises(UsageError, match="must be new or empty. Received: '"):
        write_store(old, "new")
    assert (old / "store.yaml").read_text() == "old"


def test_foreign_directory_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("dear")
    with pytest.raises(UsageError, match="where 'cat.jpg' was added"):
        write_store(tmp_path / "photos", overwrite=True, listing=None)
    assert names(tmp_path) == ["photos"]
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "dear"


def edit(path):
    path.write_text("old, with a note of mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda old: (old / "deep/thesis.txt").write_text("dear"),
            "'deep/thesis.txt' was added",
            id="added",
        ),
        pytest.param(
            lambda old: edit(old / "deep/file"),
            "'deep/file' has other bytes",
            id="edited",
        ),
        pytest.param(
            lambda old: (old / "link").symlink_to("/"),
            "link', a link or special file",
            id="link",
        ),
        pytest.param(
            lambda old: [(old / f"{n}").write_text("") for n in range(9)],
            "'4' was added and 4 more",
            id="many",
        ),
    ],
)
def test_what_no_manifest_lists_is_never_replaced(old, change, message):
    listed = read_files(old)
    change(old)
    before = sorted(old.rglob("*"))
    with pytest.raises(UsageError, match=message):
        check_output(old, overwrite=True, listing=lambda _: listed)
    with pytest.raises(UsageError, match=message):
        write_store(old, "new", overwrite=True, listing=lambda _: listed)
    assert sorted(old.rglob("*")) == before


def test_directory_without_a_valid_manifest_is_never_replaced(old):
    def listing(path):
        raise ArtifactError("There is none.")

    with pytest.raises(UsageError, match="which is none. There is none. Choo"):
        write_store(old, "new", overwrite=True, listing=listing)
    assert (old / "store.yaml").read_text() == "old"


def test_file_added_while_the_new_directory_is_made_is_kept(old):
    listed = read_files(old)
    with pytest.raises(UsageError, match="'thesis.txt' was added"):
        with atomic_directory(old, True, lambda _: listed):
            (old / "thesis.txt").write_text("dear")
    assert names(old) == ["deep", "store.yaml", "thesis.txt"]


def test_file_is_never_replaced_by_a_directory(tmp_path):
    (tmp_path / "store").write_text("dear")
    with pytest.raises(UsageError, match="must be a directory"):
        write_store(tmp_path / "store", overwrite=True)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_keeps_the_old_directory(old, error):
    with pytest.raises(error):
        with atomic_directory(old, True, read_files) as directory:
            (directory / "store.yaml").write_text("new")
            raise error
    assert (old / "store.yaml").read_text() == "old"
    assert names(old.parent) == ["store"]


def test_failed_rename_brings_the_old_directory_back(old, monkeypatch):
    rename = os.rename

    def refuse_new(source, target):
        if ".tmp-" in str(source):
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(OSError, match="no"):
        write_store(old, "new", overwrite=True)
    assert (old / "store.yaml").read_text() == "old"
    assert names(old.parent) == ["store"]


def test_directory_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "store"
    with pytest.raises(UsageError, match="must be new or empty"):
        with atomic_directory(path) as directory:
            (directory / "store.yaml").write_text("late")
            write_store(path, "early")
    assert (path / "store.yaml").read_text() == "early"


def test_killed_save_keeps_the_old_directory_and_is_swept(old):
    run_and_die(KILLED_SAVE, old)
    assert (old / "store.yaml").read_text() == "old"
    claim, temporary, _ = names(old.parent)
    assert claim == ".store.claim" and temporary.startswith(".store.tmp-")
    write_store(old, "new", overwrite=True)
    assert (old / "store.yaml").read_text() == "new"
    assert names(old.parent) == ["store"]


def test_save_killed_between_renames_is_undone(old):
    run_and_die(KILLED_BETWEEN_RENAMES, old)
    assert not old.exists()
    with pytest.raises(UsageError, match="must be new or empty"):
        write_store(old, "new")
    assert (old / "store.yaml").read_text() == "old"


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux'")
def test_old_and_new_directory_change_places_at_once(old):
    run_and_die(KILLED_AFTER_EXCHANGE, old)
    assert (old / "store.yaml").read_text() == "new"
    write_store(old, "newer", overwrite=True)
    assert names(old.parent) == ["store"]


def test_temporaries_of_living_processes_stay(tmp_path):
    with atomic_directory(tmp_path / "store") as directory:
        (directory / "store.yaml").write_text("new")
        atomic_write(tmp_path / "store.txt", "text")
        write_store(tmp_path / "store.yaml")
    assert names(tmp_path) == ["store", "store.txt", "store.yaml"]


@pytest.mark.parametrize("content", ["grüße", "grüße".encode()])
def test_write_file(tmp_path, content):
    path = tmp_path / "a" / "file"
    atomic_write(path, "old")
    atomic_write(path, content)
    assert path.read_text(encoding="utf-8") == "grüße"
    assert names(path.parent) == ["file"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, "old")

    def refuse(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_new_file_may_be_written(tmp_path):
    check_output_file(tmp_path / "spec.yaml")


def test_sealed_file_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(seal("# why\nname: grüße\n"), encoding="utf-8")
    check_output_file(path, overwrite=True)
    with pytest.raises(UsageError, match="output file must be new"):
        check_output_file(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text + "# mine\n", id="line-added"),
        pytest.param(lambda text: text.replace("pets", "cats"), id="edited"),
        pytest.param(lambda text: text.partition("\n")[0], id="seal-removed"),
        pytest.param(lambda text: "# mine\n" + text, id="line-in-front"),
        pytest.param(lambda text: "", id="empty"),
    ],
)
def test_edited_file_is_never_replaced(tmp_path, change):
    path = tmp_path / "spec.yaml"
    path.write_text(change(seal("name: pets\n")))
    with pytest.raises(UsageError, match="wrote and nobody edited can be"):
        check_output_file(path, overwrite=True)


def test_directory_is_never_replaced_by_a_file(tmp_path):
    with pytest.raises(UsageError, match="which is another"):
        check_output_file(tmp_path, overwrite=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_errors_of_the_disk_name_the_path(tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"'{tmp_path}/a'") as caught:
        atomic_write(tmp_path / "a", "text")
    assert caught.value.errno == code
    with pytest.raises(OSError, match=f"'{tmp_path}/b'"):
        with atomic_directory(tmp_path / "b") as temporary:
            (temporary / "file").touch()
    with pytest.raises(OSError, match=f"'{tmp_path}/c'"):
        with atomic_directory(tmp_path / "c") as temporary:
            raise OSError(code, os.strerror(code), str(temporary / "file"))
    with pytest.raises(OSError, match="'/elsewhere'"):
        with atomic_directory(tmp_path / "c"):
            raise OSError(code, os.strerror(code), "/elsewhere")
    assert list(tmp_path.iterdir()) == []


def test_what_was_replaced_while_it_was_read_is_read_again(old):
    found = []

    def read():
        found.append((old / "store.yaml").read_text())
        if len(found) == 1:
            old.rename(old.with_name("gone"))
            old.mkdir()
            (old / "store.yaml").write_text("new")
            raise ArtifactError("files of both")
        return found[-1]

    assert read_again_if_replaced(old, read) == "new"
    assert found == ["old", "new"]


def test_new_directory_is_not_taken_for_the_removed_one(old):
    found = []

    def read():
        found.append((old / "store.yaml").read_text())
        if len(found) < 10:  # Its number is free, and the next one may get it.
            shutil.rmtree(old)
            old.mkdir()
            (old / "store.yaml").write_text("new")
            raise ArtifactError("files of both")
        return found[-1]

    assert read_again_if_replaced(old, read) == "new"


def test_what_is_damaged_in_its_place_is_read_once(old):
    found = []

    def read():
        found.append(1)
        raise ArtifactError("damaged")

    with pytest.raises(ArtifactError, match="damaged"):
        read_again_if_replaced(old, read)
    assert len(found) == 1
