"""Files and directories that are either there as a whole or not at all.

Everything is written under the name `.<name>.tmp-<host>-<pid>-<random>` beside
its place, synced to disk and renamed. A directory that is replaced changes
places with the new one in one step. Where the system has no such step, it
stands aside as `.<name>.old-...` for the moment between two renames.

What was there before is replaced only if kmod wrote it and nobody changed it:
every file of a directory is one that its manifest lists, and a file by itself
bears a seal, the digest of its text.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from typing import TypeVar

from kmod.errors import ArtifactError
from kmod.errors import KmodError
from kmod.errors import UsageError
from kmod.files.claims import claimed
from kmod.files.digests import list_files
from kmod.files.digests import unlisted

# Reads the manifest of a directory: `size` and `digest` of each file by path,
# those of the manifest included.
Listing = Callable[[Path], Mapping[str, Mapping[str, Any]]]

T = TypeVar("T")

MAX_NAMES = 5
MAX_READS = 50
SYNCS_AT_A_TIME = 8
SECONDS_BETWEEN_RENAMES = 0.01
# The files that make a directory an artifact. A spec may be called so as well,
# but does not end in its own digest.
MANIFESTS = ("store.yaml", "composition.yaml", "export.yaml")
MODULE_MANIFEST = "assets.extra/module.yaml"
_SEALED = re.compile(rb"\ndigest: sha256:[0-9a-f]{64}\n\Z")
_SEAL = re.compile(
    r"(?:# |<!-- )Written by kmod, unchanged while this is (\w+)(?: -->)?\n\Z"
)
_SEAL_LENGTH = 16  # It guards against accidents, not forgery.


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, overwrite: bool = False, listing: Listing | None = None
) -> Iterator[Path]:
    """Gives a temporary directory that becomes `path` when the block ends.

    If the block raises, is interrupted or the process is killed, nothing
    appears at `path`, and a directory that was there stays as it was. What
    killed processes left behind is removed by the next call.

    Args:
        path: Directory to make; its parents are made too.
        overwrite: As `check_output` takes it.
        listing: As `check_output` takes it.

    Returns:
        Context manager that gives the directory to write into.

    Raises:
        UsageError: If something would be lost; see `check_output`.
        ArtifactError: If another process makes the same output.
    """
    path = _prepare(path)
    check_output(path, overwrite, listing)
    temporary = _sibling(path, "tmp")
    with _named_errors(path, temporary), claimed(path):
        try:
            temporary.mkdir()
            yield temporary
            _sync_tree(temporary)
            # Something may have been put there meanwhile.
            check_output(path, overwrite, listing)
            _move_into_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_output(
    path: str | Path, overwrite: bool = False, listing: Listing | None = None
) -> None:
    """Refuses an output directory if a file in it would be lost.

    Commands ask before they begin to work, `atomic_directory` asks again.

    Args:
        path: Directory to make. An empty one may be there.
        overwrite: Whether what kmod wrote there may be replaced.
        listing: Reads what that directory's manifest lists. Defaults to
            none, so that nothing can be replaced.

    Raises:
        UsageError: If `path` is a file or lies inside an artifact, if it holds
            files and `overwrite` is not set, or if it holds any that the
            manifest does not list as they are.
    """
    path = Path(os.path.realpath(path))
    check_outside(path)
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
            f"'{path}', which holds files. Choose another name, or allow what "
            "kmod wrote there to be replaced with `overwrite=True` "
            "(`--overwrite`)."
        )
    try:
        recorded = {} if listing is None else listing(path)
        lost = unlisted(list_files(path), recorded)
    except KmodError as error:
        raise UsageError(
            "Only a directory that kmod wrote can be overwritten. Received: "
            f"'{path}', which is none. {error} Choose another name, or remove "
            "the directory yourself."
        ) from error
    if lost:
        more = len(lost) - MAX_NAMES
        raise UsageError(
            "Only a directory that holds nothing but what kmod wrote can be "
            f"overwritten. Received: '{path}', where "
            f"{', '.join(lost[:MAX_NAMES])}"
            f"{f' and {more} more' if more > 0 else ''}. Choose another name, "
            "or move what you want to keep and remove the directory yourself."
        )


def check_outside(path: str | Path) -> None:
    """Refuses an output inside an artifact, which it would break.

    Args:
        path: File or directory to make.

    Raises:
        UsageError: If it would lie in a store, module, composed model or
            export.
    """
    path = Path(os.path.realpath(path))
    for parent in path.parents:
        if _is_artifact(parent):
            raise UsageError(
                "An output must not lie inside what kmod wrote, whose manifest "
                f"does not list it. Received: '{path}', inside '{parent}'. "
                "Choose a place beside it."
            )


def read_again_if_replaced(directory: str | Path, read: Callable[[], T]) -> T:
    """Reads an artifact, once more if another took its place meanwhile.

    What is read is then the old or the new one, as a whole; without this, a
    reader would see files of both and take them for damage, or see none
    where a system can't exchange directories in one step.

    Args:
        directory: Directory of the artifact.
        read: Reads it.

    Returns:
        What `read` returned.

    Raises:
        ArtifactError: If `read` did, of a directory that stayed in its place.
    """
    for _ in range(MAX_READS):
        with _held(directory):
            before = _identity(directory)
            try:
                return read()
            except (ArtifactError, FileNotFoundError, NotADirectoryError):
                time.sleep(SECONDS_BETWEEN_RENAMES)
                if _identity(directory) == before:
                    raise
    return read()


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Writes a file so that readers see the old or the new content, never half.

    Args:
        path: File to write; its parent directories are made.
        content: Bytes, or text to encode as UTF-8.

    Raises:
        UsageError: If it lies inside an artifact.
    """
    path = _prepare(path)
    temporary = _sibling(path, "tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with _named_errors(path, temporary):
            temporary.write_bytes(data)
            _sync(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def seal(text: str, comment: str = "# {}") -> str:
    """Puts a comment behind a text that tells whether it changed.

    Args:
        text: The text, with a line break at its end.
        comment: Form of a comment. Defaults to that of YAML; of HTML it is
            `"<!-- {} -->"`.

    Returns:
        The text with its seal, for `check_output_file`.
    """
    words = f"Written by kmod, unchanged while this is {_seal_digest(text)}"
    return f"{text}{comment.format(words)}\n"


def is_sealed(path: Path) -> bool:
    """Tells whether a file is what `seal` returned."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    match = _SEAL.search(text)
    return match is not None and match[1] == _seal_digest(text[: match.start()])


def check_output_file(path: str | Path, overwrite: bool = False) -> None:
    """Refuses an output file if what is there would be lost.

    Args:
        path: File to write.
        overwrite: Whether a sealed file may be replaced that nobody has
            edited.

    Raises:
        UsageError: If something is at `path` that may not be replaced, or it
            lies inside an artifact.
    """
    path = Path(path)
    check_outside(path)
    if not path.exists():
        return
    if not overwrite:
        raise UsageError(
            f"The output file must be new. Received: '{path}', which is "
            "there. Choose another name, or allow what kmod wrote there to be "
            "replaced with `overwrite=True` (`--overwrite`)."
        )
    if not path.is_file() or not is_sealed(path):
        raise UsageError(
            "Only a file that kmod wrote and nobody edited can be "
            f"overwritten. Received: '{path}', which is another. Choose "
            "another name, or remove the file yourself."
        )


def remove_leftovers(path: Path) -> None:
    """Removes what dead processes of this host left beside a path."""
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


@contextlib.contextmanager
def _named_errors(path, temporary):
    """Lets errors name the output, not its temporary place or nothing."""
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename
        is_told = isinstance(named, str | os.PathLike)
        is_other = is_told and not Path(named).is_relative_to(temporary)
        if error.errno is None or is_other:
            raise
        reason = os.strerror(error.errno)
        raise OSError(error.errno, reason, str(path)) from error


def _prepare(path):
    """Returns the real path, its parent made and swept."""
    path = Path(os.path.realpath(path))
    check_outside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    return path


@contextlib.contextmanager
def _held(directory):
    """Keeps the number of a directory from being given to another."""
    try:
        held = os.open(directory, getattr(os, "O_DIRECTORY", os.O_RDONLY))
    except OSError:  # It is not there, or the system opens no directories.
        yield
        return
    try:
        yield
    finally:
        os.close(held)


def _identity(directory):
    try:
        found = os.stat(directory)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_artifact(directory):
    if (directory / MODULE_MANIFEST).is_file():
        return True
    paths = (directory / name for name in MANIFESTS)
    return any(path.is_file() and _is_sealed_manifest(path) for path in paths)


def _is_sealed_manifest(path):
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 100))
        return _SEALED.search(file.read()) is not None


def _move_into_place(new, path):
    """Puts a directory in its place; `new` is then the old one or gone."""
    is_here = path.exists() and _identity(path) == _identity(os.curdir)
    _replace(path, new)
    if is_here:  # The working directory would else be the old one.
        os.chdir(path)


def _replace(path, new):
    if path.exists() and _exchange(new, path):
        _sync(path.parent)
        return
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


def _exchange(first, second):
    """Lets two directories change places at once; tells if it could.

    Only Linux can, by `renameat2`, and not on every file system.
    """
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE.
    if rename(here, bytes(first), here, bytes(second), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _sibling(path, kind):
    owner = f"{platform.node()}-{os.getpid()}"
    return path.with_name(f".{path.name}.{kind}-{owner}-{secrets.token_hex(4)}")


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
    paths = [
        Path(directory, name)
        for directory, _, names in os.walk(top)
        for name in (*names, os.curdir)
    ]
    # A disk syncs many files in the time of one.
    with ThreadPoolExecutor(SYNCS_AT_A_TIME) as pool:
        for _ in pool.map(_sync, paths):
            pass


def _sync(path):
    if os.name == "nt":
        return  # Windows syncs only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal_digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:_SEAL_LENGTH]
