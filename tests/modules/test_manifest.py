import dataclasses

import pytest
import yaml

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files import data_digest
from kmod.files.manifest import to_plain
from kmod.modules.manifest import ModuleRecord
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_store_manifest

DIGEST = "sha256:" + "0" * 64
CAT = ModuleRecord("cat", 1, "cat", DIGEST, DIGEST)


@pytest.fixture
def written(tmp_path, manifest):
    """Directory of a manifest with one module."""
    write_store_manifest(
        tmp_path, dataclasses.replace(manifest, modules=(CAT,))
    )
    return tmp_path


def edit(directory, change, seal=True):
    """Changes a written manifest, and its digest so that only rules refuse."""
    path = directory / "store.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(data)
    if seal:
        body = {k: data[k] for k in data if k not in ("version", "digest")}
        data["digest"] = data_digest(body)
    path.write_text(yaml.safe_dump(data), encoding="utf-8")


def test_round_trip(written, manifest):
    manifest = dataclasses.replace(manifest, modules=(CAT,))
    loaded = read_store_manifest(written)
    assert loaded == dataclasses.replace(
        manifest, arguments=to_plain(manifest.arguments)
    )
    assert loaded.digest == manifest.digest
    assert loaded.content_digest == manifest.content_digest
    assert set(loaded.created_by) == {"kmod", "keras", "tensorflow"}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        pytest.param({"created_by": {"kmod": "9"}}, True, id="versions"),
        pytest.param({"manifest": "sha256:" + "1" * 64}, True, id="files"),
        pytest.param({"content": "sha256:" + "1" * 64}, False, id="model"),
        pytest.param({"seed": 8}, False, id="seed"),
    ],
)
def test_digest_is_content_identity(manifest, changes, same):
    one = dataclasses.replace(manifest, modules=(CAT,))
    if changes.keys() & {"manifest", "content"}:
        changes = {"modules": (dataclasses.replace(CAT, **changes),)}
    other = dataclasses.replace(one, **changes)
    assert (one.content_digest == other.content_digest) == same


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"created_by": {"kmod": "9"}}, id="versions"),
        pytest.param({"manifest": "sha256:" + "1" * 64}, id="files"),
        pytest.param({"content": "sha256:" + "1" * 64}, id="model"),
        pytest.param({"seed": 8}, id="seed"),
    ],
)
def test_digest_is_of_all_that_is_there(manifest, changes):
    one = dataclasses.replace(manifest, modules=(CAT,))
    if changes.keys() & {"manifest", "content"}:
        changes = {"modules": (dataclasses.replace(CAT, **changes),)}
    assert one.digest != dataclasses.replace(one, **changes).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda data: data.pop("source"), "'source' is a required", id="key"
        ),
        pytest.param(
            lambda data: data["input"].update(shape=["8"]),
            r"\$.input.shape\[0\]: '8' is not of type 'integer'",
            id="type",
        ),
        pytest.param(
            lambda data: data["modules"].append(data["modules"][0].copy()),
            "two modules share one directory",
            id="module-twice",
        ),
        pytest.param(
            lambda data: data.update(class_names=["cat", "cat"]),
            "class names are given twice",
            id="class-twice",
        ),
        pytest.param(lambda data: data.pop("version"), "'version'", id="none"),
        pytest.param(
            lambda data: data.update(version=True), "version", id="bool"
        ),
    ],
)
def test_broken_rule_is_reported(written, change, message):
    edit(written, change)
    with pytest.raises(IntegrityError, match=f"not as kmod wrote.*{message}"):
        read_store_manifest(written)


def test_edited_value_does_not_match_the_digest(written):
    edit(written, lambda data: data.update(seed=8), seal=False)
    with pytest.raises(IntegrityError, match="not match its own digest"):
        read_store_manifest(written)


@pytest.mark.parametrize("text", ["", "# nothing", "[]", "text", "- version"])
def test_content_must_be_a_mapping(written, text):
    (written / "store.yaml").write_text(text)
    with pytest.raises(IntegrityError, match="is not of type 'object'"):
        read_store_manifest(written)


def test_every_truncation_is_refused(written):
    data = (written / "store.yaml").read_bytes()
    for length in range(0, len(data) - 1, 37):
        (written / "store.yaml").write_bytes(data[:length])
        with pytest.raises(IntegrityError):
            read_store_manifest(written)


def test_directory_without_manifest(tmp_path):
    with pytest.raises(ArtifactError, match="with the file 'store.yaml'"):
        read_store_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": 3}, r"\$.license: 3 is not of type"),
        ({"class_names": ("cat", "cat")}, "class names are given twice"),
    ],
)
def test_bad_manifest_is_not_written(tmp_path, manifest, changes, message):
    with pytest.raises(UsageError, match=message):
        write_store_manifest(tmp_path, dataclasses.replace(manifest, **changes))
    assert not list(tmp_path.iterdir())


def test_more_than_a_thousand_classes(tmp_path, manifest):
    names = tuple(f"class {index}" for index in range(1001))
    records = tuple(
        dataclasses.replace(
            CAT, class_name=name, class_index=index, directory=f"n-{index}"
        )
        for index, name in enumerate(names)
    )
    many = dataclasses.replace(manifest, class_names=names, modules=records)
    write_store_manifest(tmp_path, many)
    assert read_store_manifest(tmp_path).modules == records
