"""Digests of files and plain data, and whether an artifact is as it was.

Digests are written as `sha256:<64 hex digits>`.
"""

import hashlib
import json
import stat
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmod.errors import IntegrityError

MAX_FAULTS = 5


def file_digest(path: str | Path) -> str:
    """Returns the digest of a file's bytes."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def bytes_digest(content: bytes) -> str:
    """Returns the digest that a file of these bytes has."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def data_digest(data: Any) -> str:
    """Returns the digest of plain data, whatever the order of its keys.

    Args:
        data: Dicts with string keys, lists, strings, numbers, booleans, `None`.
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return bytes_digest(text.encode())


def list_files(directory: str | Path) -> dict[str, Path]:
    """Lists the files below a directory without following links.

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


def file_record(path: Path) -> dict[str, Any]:
    """Returns what a manifest records of a file, its `size` and `digest`."""
    return {"size": path.stat().st_size, "digest": file_digest(path)}


def read_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns `size` and `digest` of every file below a directory, by path."""
    return {
        name: file_record(path) for name, path in list_files(directory).items()
    }


def check_files(
    directory: Path, recorded: Mapping[str, Mapping[str, Any]], manifest: str
) -> None:
    """Checks that a directory holds the recorded files and nothing else.

    Args:
        directory: Directory of the artifact.
        recorded: What `read_files` returned when it was written.
        manifest: Path of the manifest, the one file that is not recorded.

    Raises:
        IntegrityError: If a file is missing, added or changed, or is a link.
    """
    found = list_files(directory)
    found.pop(manifest, None)
    faults = [
        *(f"'{name}' is missing" for name in recorded if name not in found),
        *unlisted(found, recorded),
    ]
    if faults:
        raise IntegrityError(
            f"'{directory}' does not hold the files that its manifest names: "
            f"{', '.join(faults[:MAX_FAULTS])}. Copy the artifact again, or "
            "make it again."
        )


def unlisted(
    found: Mapping[str, Path], recorded: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Says which files a manifest does not list as they are.

    Args:
        found: What `list_files` found.
        recorded: `size` and `digest` of each file, by path.

    Returns:
        A text for every file that is not recorded or has other bytes.
    """
    return [
        *(f"'{name}' was added" for name in found if name not in recorded),
        *(
            f"'{name}' has other bytes"
            for name, path in found.items()
            if name in recorded and not _is_unchanged(path, recorded[name])
        ),
    ]


def _is_unchanged(path, record):
    # The size comes first, so that a swollen file is never read.
    return (
        path.stat().st_size == record["size"]
        and file_digest(path) == record["digest"]
    )


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
