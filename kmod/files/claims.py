"""Claims on outputs, so that one process at a time makes one.

A claim is the system's lock on the file `.<name>.claim` beside the output.
The system ends it with its process, however that ends: a file that a killed
one left behind claims nothing.
"""

import contextlib
import contextvars
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kmod.errors import ArtifactError

try:
    import fcntl
except ImportError:  # On Windows, nothing is claimed.
    fcntl = None

_CONTENT = re.compile(rb"(kmod, process (\d+)\n)?")
_scope = contextvars.ContextVar("claims", default=None)
_held = set()


@contextlib.contextmanager
def claims_scope() -> Iterator[None]:
    """Keeps what is claimed by `claim` until the block ends."""
    with contextlib.ExitStack() as claims:
        token = _scope.set(claims)
        try:
            yield
        finally:
            _scope.reset(token)


def claim(path: str | Path) -> None:
    """Claims an output for the rest of the scope, before work is done for it.

    Raises:
        ArtifactError: If another process has claimed it.
        OSError: If its folder can not be written.
    """
    if (claims := _scope.get()) is not None:
        claims.enter_context(claimed(path))


@contextlib.contextmanager
def claimed(path: str | Path, wait: bool = False) -> Iterator[None]:
    """Claims an output until the block ends.

    What this process has claimed already stays claimed. Where the folder is
    not there yet, there is nothing to lose, and nothing is claimed.

    Args:
        path: File or directory to make.
        wait: Whether to wait for another process that has claimed it.

    Raises:
        ArtifactError: If another process has claimed it, and `wait` is not
            set.
        OSError: If its folder can not be written.
    """
    path = Path(os.path.realpath(path))
    if fcntl is None or path in _held or not path.parent.is_dir():
        yield
        return
    file = path.with_name(f".{path.name}.claim")
    descriptor = _lock(file, path, wait)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(file, path, wait):
    """Returns the descriptor of the claim's file, locked."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            descriptor = os.open(file, flags, 0o644)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        try:
            if _is_locked(descriptor, file, path, wait):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_locked(descriptor, file, path, wait):
    """Locks a claim's file; tells if it is still the one of that name."""
    content = _CONTENT.fullmatch(os.read(descriptor, 100))
    if content is None:
        raise ArtifactError(
            f"kmod claims an output by the file '{file.name}' beside it. "
            f"Received: '{file}', which is no file of kmod. Move it away, or "
            "choose another name for the output."
        )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        owner = b"another process"
        if content[2] is not None:
            owner = b"process " + content[2]
        raise ArtifactError(
            "One process at a time makes an output. Received: "
            f"'{path}', locked by {owner.decode()}. Wait until that ends, or "
            "choose another name."
        ) from error
    except OSError:  # Some file systems have no locks.
        return True
    if not _is_at(descriptor, file):  # Its owner has just removed it.
        return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"kmod, process {os.getpid()}\n".encode(), 0)
    return True


def _is_at(descriptor, file):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False
