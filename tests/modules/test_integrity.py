import dataclasses
from pathlib import Path

import pytest

from kmod.cli.main import main
from kmod.errors import IntegrityError
from kmod.modules import manifest as manifests
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import load_store
from kmod.modules.module_store import read_module


@pytest.mark.parametrize(
    "name",
    [
        "store.yaml",
        "cat/saved_model.pb",
        "cat/fingerprint.pb",
        "cat/variables/variables.data-00000-of-00001",
        "cat/variables/variables.index",
        "cat/assets.extra/module.keras",
        "cat/assets.extra/module.yaml",
    ],
)
def test_flipped_bits_are_found(store_copy, name):
    data = (store_copy / name).read_bytes()
    start = len(b"version: 1\n")
    for place in range(start, len(data), len(data) // 19):
        flipped = bytes([data[place] ^ 1])
        changed = data[:place] + flipped + data[place + 1 :]
        (store_copy / name).write_bytes(changed)
        with pytest.raises(IntegrityError) as caught:
            load_store(store_copy)
        assert caught.value.exit_code == 4


def change_size(path):
    path.write_bytes(path.read_bytes() + b"x")


def test_unverified_store_checks_what_it_loads(store_copy):
    archive = store_copy / "cat" / "assets.extra" / "module.keras"
    archive.write_bytes(
        (store_copy / "t-shirt-top/assets.extra/module.keras").read_bytes()
    )
    store = load_store(store_copy, verify=False)
    assert store["🐟"].info.class_name == "🐟"
    assert store.info("cat").class_name == "cat"
    with pytest.raises(IntegrityError, match="module.keras' has other bytes"):
        store["cat"]


def test_file_changed_after_opening_is_found(store_copy):
    store = load_store(store_copy)
    change_size(store_copy / "cat" / "assets.extra" / "module.keras")
    with pytest.raises(IntegrityError, match="module.keras' has other bytes"):
        store["cat"]


def test_bytes_are_checked_that_are_read(store_copy, monkeypatch):
    store, read = load_store(store_copy), Path.read_bytes
    changed = store_copy / "cat" / "assets.extra" / "module.yaml"

    def read_another(path):
        content = read(path)
        return content.replace(b"0", b"1") if path == changed else content

    monkeypatch.setattr(Path, "read_bytes", read_another)
    with pytest.raises(IntegrityError, match="its digest is not the one"):
        store.info("cat")


def test_module_by_itself_is_held_against_its_own_manifest(store_copy):
    assert read_module(store_copy / "cat").info.class_name == "cat"
    change_size(store_copy / "cat" / "assets.extra" / "module.keras")
    with pytest.raises(IntegrityError, match="module.keras' has other bytes"):
        read_module(store_copy / "cat")


def test_module_in_a_store_is_held_against_it(store_copy, tmp_path, capsys):
    manifest = store_copy / "cat" / "assets.extra" / "module.yaml"
    changed = manifest.read_text().replace("class_name: cat", "class_name: cow")
    manifest.write_text(changed)
    with pytest.raises(IntegrityError, match="its digest is not the one"):
        read_module(store_copy / "cat")
    assert main(["inspect", str(store_copy / "cat")]) == 4
    export = ["export", str(store_copy / "cat"), "--format", "savedmodel"]
    assert main([*export, "--out", str(tmp_path / "out")]) == 4
    assert "'cow'" not in capsys.readouterr().out
    (store_copy / "cat").rename(store_copy / "cow")
    with pytest.raises(IntegrityError, match="the store does not name it"):
        read_module(store_copy / "cow")


def test_model_must_be_the_recorded_one(saved):
    record = dataclasses.replace(saved.manifest.modules[1], content="sha256:0")
    with pytest.raises(IntegrityError, match="must be the model sha256:0"):
        read_module(saved.path / "cat", record)


def changed_input(manifest, **changes):
    images = dataclasses.replace(manifest.input, **changes)
    return dataclasses.replace(manifest, input=images)


@pytest.mark.parametrize("high", [float("nan"), float("inf"), -1.0])
def test_sealed_range_must_rise(store_copy, monkeypatch, high):
    manifest = read_store_manifest(store_copy)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "_contradictions", lambda _: [])
        nonsense = changed_input(manifest, range=(0.0, high))
        write_store_manifest(store_copy, nonsense)
    with pytest.raises(IntegrityError, match="values of images are from 0"):
        load_store(store_copy)
