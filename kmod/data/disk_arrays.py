"""Arrays too large for memory: kept in temporary files, read in parts.

What is joined of parts stays in memory up to `LIMIT` bytes. Beyond that it
becomes a `numpy.memmap` of a file without a name, in the directory that the
environment variable TMPDIR names, which goes when nobody uses it any more.
All that takes an array takes a mapped one; what shall not copy it as a whole
reads it by `rows` or `parts`.
"""

import contextlib
import mmap
import shutil
import tempfile
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from kmod.errors import ArtifactError

LIMIT = 2**28
PART = 2**24  # Bytes that are read at a time.


def rows(array: np.ndarray, index: Any) -> np.ndarray:
    """Returns some rows of an array, those of a mapped one in memory.

    Args:
        array: Array `(n, ...)`.
        index: Slice, or integer array.
    """
    found = array[index]
    if isinstance(array, np.memmap):
        found = np.array(found) if isinstance(found, np.memmap) else found
        _unload(array)
    return found


def _unload(array):
    """Takes what was read out of the process's memory; the file keeps it."""
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    # A private mapping (mode "c") has no file to read changes from again.
    is_kept = array.mode in ("r", "r+", "w+") and isinstance(owner, mmap.mmap)
    if is_kept and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields an array in parts of about `PART` bytes, all in memory."""
    size = max(1, PART // max(1, array[:1].nbytes))
    for start in range(0, len(array), size):
        yield rows(array, slice(start, start + size))


def collect(batches: Iterable[Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Joins batches of one array, or of several of the same length.

    Args:
        batches: At least one batch, each with a part of every array.

    Returns:
        Tuple of the whole arrays: in memory if they take at most `LIMIT`
        bytes together, and else mapped, read-only.

    Raises:
        ArtifactError: If they do not fit on the disk.
        ValueError: If parts do not fit together.
    """
    waiting, num_bytes, files = [], 0, None
    with contextlib.ExitStack() as stack:
        for batch in batches:
            waiting.append(batch)
            num_bytes += sum(part.nbytes for part in batch)
            if num_bytes > LIMIT:
                files = files or [_GrowingFile(stack) for _ in batch]
                for written in waiting:
                    for file, part in zip(files, written, strict=True):
                        file.append(part)
                waiting = []
        if files is None:
            return tuple(map(_joined, zip(*waiting, strict=True)))
        return tuple(file.mapped() for file in files)


def _joined(batches):
    first = batches[0]
    for each in batches:
        if each.shape[1:] != first.shape[1:]:
            raise _other_rows(_row(each), _row(first))
    return np.concatenate(batches)


def _row(part):
    return part.dtype, part.shape[1:]


def _other_rows(row, first):
    return ValueError(
        "Images of all batches must have the same shape and data "
        f"type. Received: {row[0]} of {row[1]} after {first[0]} of "
        f"{first[1]}. Bring them to one size."
    )


class _GrowingFile:
    """A temporary file that an array is written to, part by part."""

    def __init__(self, stack):
        self.file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        self.row, self.count = None, 0

    def append(self, part):
        self.row = self.row or _row(part)
        if _row(part) != self.row:
            raise _other_rows(_row(part), self.row)
        left = memoryview(np.ascontiguousarray(part).reshape(-1)).cast("B")
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise _no_room(f"{self.count} images or more") from error
        self.count += len(part)

    def mapped(self):
        dtype, shape = self.row
        return np.memmap(self.file, dtype, "r", shape=(self.count, *shape))


def take(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns the rows at `indices`, on disk if they are too large."""
    num_bytes = array[:1].nbytes
    if num_bytes * len(indices) <= LIMIT:
        return rows(array, indices)
    size = max(1, PART // num_bytes)
    (found,) = collect(
        (rows(array, indices[start : start + size]),)
        for start in range(0, len(indices), size)
    )
    return found


def concatenate(arrays: Sequence[np.ndarray], dtype: Any = None) -> np.ndarray:
    """Joins arrays `(n, ...)` to one, on disk if that is too large.

    Args:
        arrays: At least one array.
        dtype: Data type of the result. Defaults to one that holds all.
    """
    if dtype is None:
        dtype = np.result_type(*(array.dtype for array in arrays))
    (found,) = collect(
        (part.astype(dtype, copy=False),)
        for array in arrays
        for part in (parts(array) if len(array) else [array])
    )
    return found


def update_digest(digest: Any, array: np.ndarray) -> None:
    """Adds the bytes of an array to a `hashlib` digest."""
    for part in parts(array):
        digest.update(np.ascontiguousarray(part).reshape(-1).view("uint8"))


def has_room(num_bytes: int) -> bool:
    """Tells whether arrays of that size fit into memory or on the disk."""
    return num_bytes <= LIMIT or num_bytes <= _free()


def check_room(num_bytes: int, name: Any) -> None:
    """Refuses data that the disk has no room for, before they are read.

    Args:
        num_bytes: Integer, what all of them take.
        name: Name or path of the data.

    Raises:
        ArtifactError: If they do not fit.
    """
    if not has_room(num_bytes):
        raise _no_room(f"'{name}', which takes {_size(num_bytes)}")


def _no_room(received):
    return ArtifactError(
        f"Images that take more than {_size(LIMIT)} are kept in a temporary "
        f"file. Received: {received}, and {_size(_free())} free in "
        f"'{tempfile.gettempdir()}'. Set the environment variable TMPDIR to a "
        "directory with more room, or take fewer or smaller images."
    )


def _free():
    return shutil.disk_usage(tempfile.gettempdir()).free


def _size(num_bytes):
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.1f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB"
