import errno
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from kmod.data import disk_arrays
from kmod.data.disk_arrays import check_room
from kmod.data.disk_arrays import collect
from kmod.data.disk_arrays import concatenate
from kmod.data.disk_arrays import parts
from kmod.data.disk_arrays import rows
from kmod.data.disk_arrays import take
from kmod.data.disk_arrays import update_digest
from kmod.errors import ArtifactError

ARRAY = np.arange(12 * 3, dtype="uint8").reshape(12, 3)
ON_DISK, IN_MEMORY = 20, 2**28


@pytest.fixture
def limit(request, monkeypatch, tmp_path):
    """Sets how large arrays in memory may be, and where files are."""
    monkeypatch.setattr(disk_arrays, "LIMIT", request.param)
    monkeypatch.setattr(disk_arrays, "PART", 9)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return request.param


both = pytest.mark.parametrize("limit", [IN_MEMORY, ON_DISK], indirect=True)
on_disk = pytest.mark.parametrize("limit", [ON_DISK], indirect=True)


def is_mapped(array):
    return isinstance(array, np.memmap)


@both
def test_batches_are_joined_to_whole_arrays(limit):
    labels = np.arange(12)
    found = collect(
        (ARRAY[start : start + 5], labels[start : start + 5])
        for start in range(0, 12, 5)
    )
    for one, expected in zip(found, (ARRAY, labels), strict=True):
        np.testing.assert_array_equal(one, expected)
        assert one.dtype == expected.dtype
        assert is_mapped(one) == (limit == ON_DISK)


@both
def test_rows_are_taken_in_the_order_asked_for(limit):
    indices = np.array([11, 0, 5, 5, 2, 7, 8, 9])
    found = take(ARRAY, indices)
    np.testing.assert_array_equal(found, ARRAY[indices])
    assert is_mapped(found) == (limit == ON_DISK)
    np.testing.assert_array_equal(take(found, np.array([1, 0])), ARRAY[[0, 11]])


@both
def test_arrays_are_joined_in_one_data_type(limit):
    more, empty = ARRAY[:2].astype("float32") / 2, ARRAY[:0]
    found = concatenate([ARRAY, empty, more])
    np.testing.assert_array_equal(found, np.concatenate([ARRAY, empty, more]))
    assert found.dtype == np.concatenate([ARRAY, more]).dtype
    assert concatenate([ARRAY], "float32").dtype == "float32"


@both
def test_parts_and_digest_are_those_of_the_whole(limit):
    array = take(ARRAY, np.arange(12))
    assert [len(part) for part in parts(array)] == [3, 3, 3, 3]
    assert not any(map(is_mapped, parts(array)))
    digest = hashlib.sha256()
    update_digest(digest, array[:, ::2])
    expected = hashlib.sha256(ARRAY[:, ::2].tobytes())
    assert digest.digest() == expected.digest()


@on_disk
def test_file_has_no_name_and_can_not_be_written_to(limit, tmp_path):
    found = take(ARRAY, np.arange(12))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@on_disk
def test_batches_of_other_shapes_are_refused(limit):
    batches = [(ARRAY,), (ARRAY[:, :2],)]
    with pytest.raises(ValueError, match=r"uint8 of \(2,\) after uint8 of \(3"):
        collect(batches)
    with pytest.raises(ValueError, match="float32 of"):
        collect([(ARRAY,), (ARRAY.astype("float32"),)])


@on_disk
def test_full_disk_is_said(limit, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    with pytest.raises(ArtifactError, match="TMPDIR to a directory with more"):
        take(ARRAY, np.arange(12))


def test_room_is_checked_before_images_are_read(monkeypatch):
    usage = shutil.disk_usage(tempfile.gettempdir())._replace(free=2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_room(2**28, "photos")
    check_room(2**29, "photos")
    message = "more than 256 MiB .*'photos', which takes 1.5 GiB, and 512 MiB"
    with pytest.raises(ArtifactError, match=message):
        check_room(3 * 2**29, "photos")


def resident_bytes():
    """Memory of this process that mapped files take."""
    text = Path("/proc/self/status").read_text()
    (line,) = (row for row in text.splitlines() if row.startswith("RssFile"))
    return 2**10 * int(line.split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("index", [slice(0, 256), np.arange(255, -1, -1)])
def test_what_was_read_does_not_stay_in_memory(tmp_path, index):
    size = 2**25
    (tmp_path / "array").write_bytes(bytes(size))
    array = np.memmap(
        tmp_path / "array", "uint8", "r", shape=(256, size // 256)
    )
    before = resident_bytes()
    array.max()
    assert resident_bytes() - before > 0.8 * size
    found = rows(array, index)
    assert not is_mapped(found) and found.nbytes == size
    assert resident_bytes() - before < 0.2 * size


def test_changes_to_a_private_mapping_are_kept(tmp_path):
    (tmp_path / "array").write_bytes(bytes(2**16))
    array = np.memmap(tmp_path / "array", "uint8", "c")
    array[:] = 7
    assert rows(array, slice(0, 2**15)).min() == 7
    assert array.min() == 7
