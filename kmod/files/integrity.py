"""Compares the files of a directory with those that a manifest lists."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmod.errors import IntegrityError
from kmod.files.digests import file_digest
from kmod.files.digests import list_files

MAX_FAULTS = 5


def read_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns `size` and `digest` of every file below a directory, by path."""
    return {
        name: file_record(path) for name, path in list_files(directory).items()
    }


def file_record(path: Path) -> dict[str, Any]:
    """Returns what a manifest records of a file, its `size` and `digest`."""
    return {"size": path.stat().st_size, "digest": file_digest(path)}


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
