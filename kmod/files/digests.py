"""Digests of files, directories and plain data, as `sha256:<64 hex digits>`."""

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmod.errors import IntegrityError


def file_digest(path: str | Path) -> str:
    """Returns the digest of a file's bytes."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def directory_digests(directory: str | Path) -> dict[str, str]:
    """Returns the digest of every file of a directory, by relative path.

    Args:
        directory: Directory to read, with all that is below it.

    Returns:
        Digest by path relative to `directory`, with `/` on every system.

    Raises:
        IntegrityError: If something there is no regular file or directory.
    """
    return {
        name: file_digest(path) for name, path in list_files(directory).items()
    }


def list_files(directory: str | Path) -> dict[str, Path]:
    """Lists the files below a directory without following links.

    Args:
        directory: Directory to read, with all that is below it.

    Returns:
        Path of every file by its path relative to `directory`, with `/` on
        every system, in a fixed order.

    Raises:
        IntegrityError: If something there is no regular file or directory,
            such as a symbolic link or a named pipe.
    """
    directory = Path(directory)
    return {
        path.relative_to(directory).as_posix(): path
        for path in _walk(directory)
    }


def data_digest(data: Any) -> str:
    """Returns the digest of plain data, whatever the order of its keys.

    Args:
        data: Dicts with string keys, lists, strings, numbers, booleans, `None`.
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise IntegrityError(
                "An artifact holds regular files and directories only. "
                f"Received: '{path}', a link or special file. Copy the "
                "artifact again with its links resolved."
            )
