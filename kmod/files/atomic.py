"""Files and directories that are either there as a whole or not at all.

Everything is written under the name `.<name>.tmp-<host>-<pid>-<random>` beside
its place, synced to disk and renamed. A directory that is replaced steps aside
as `.<name>.old-...` for the moment between two renames.
"""

import contextlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from kmod.errors import UsageError


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, overwrite: bool = False, marker: str = "store.yaml"
) -> Iterator[Path]:
    """Gives a temporary directory that becomes `path` when the block ends.

    If the block raises, is interrupted or the process is killed, nothing
    appears at `path`, and a directory that was there stays as it was. What
    killed processes left behind is removed by the next call.

    Args:
        path: Directory to make; its parents are made too.
        overwrite: Whether a directory of kmod may be replaced. An empty
            directory always may.
        marker: Name of the file that the new directory will hold, and by which
            an old one is known to be kmod's.

    Returns:
        Context manager that gives the directory to write into.

    Raises:
        UsageError: If `path` is a file, if it is a directory and `overwrite`
            is not set, or if kmod did not write that directory.
    """
    path = _prepare(path)
    _check_replaceable(path, overwrite, marker)
    temporary = _sibling(path, "tmp")
    try:
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        # Another process may have finished first.
        _check_replaceable(path, overwrite, marker)
        _move_into_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Writes a file so that readers see the old or the new content, never half.

    Args:
        path: File to write; its parent directories are made.
        content: Bytes, or text to encode as UTF-8.
    """
    path = _prepare(path)
    temporary = _sibling(path, "tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.write_bytes(data)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _prepare(path):
    """Returns the real path, its parent made and swept."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    return path


def _check_replaceable(path, overwrite, marker):
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(
            "The output must be a directory. Received: the file "
            f"'{path}'. Choose another name."
        )
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise UsageError(
            "The output directory must be new or empty. Received: "
            f"'{path}', which holds files. Choose another name, or allow a "
            "directory of kmod to be replaced with `overwrite=True`."
        )
    if not (path / marker).is_file():
        raise UsageError(
            "Only a directory that kmod wrote can be overwritten, and it "
            f"would hold the file {marker!r}. Received: '{path}' without one. "
            "Choose another name, or remove the directory yourself."
        )


def _move_into_place(new, path):
    old = _sibling(path, "old")
    try:
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sibling(path, kind):
    owner = f"{platform.node()}-{os.getpid()}"
    return path.with_name(f".{path.name}.{kind}-{owner}-{secrets.token_hex(4)}")


def _sweep(path):
    """Removes what dead processes of this host left beside `path`."""
    name = re.compile(
        rf"\.{re.escape(path.name)}\.(tmp|old)-"
        rf"{re.escape(platform.node())}-(\d{{1,9}})-[0-9a-f]{{8}}"
    )
    for entry in path.parent.iterdir():
        match = name.fullmatch(entry.name)
        if not match or _is_alive(int(match[2])):
            continue
        if match[1] == "old" and not path.exists():
            os.rename(entry, path)  # Killed between the two renames.
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _is_alive(pid):
    if os.name == "nt":
        return True  # There, `os.kill(pid, 0)` would end the process.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync_tree(top):
    for directory, _, names in os.walk(top):
        for name in names:
            _sync(Path(directory, name))
        _sync(Path(directory))


def _sync(path):
    if os.name == "nt":
        return  # Windows syncs only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
