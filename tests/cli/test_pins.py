"""A pinned store is held against its digest before anything is loaded."""

import dataclasses
import shutil

import keras
import pytest

import kmod
from kmod.cli.main import main
from kmod.files import file_digest
from kmod.modules.manifest import read_module_manifest
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_module_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.spec.spec_file import write_spec

MODULE = "assets.extra/module.keras"


@pytest.fixture
def pinned(store, tmp_path):
    """Paths of a copied store and of a spec that pins it and is locked."""
    copy = shutil.copytree(store.path, tmp_path / "store")
    spec = tmp_path / "spec.yaml"
    write_spec(
        {
            "version": 1,
            "name": "two",
            "stores": {"digits": {"path": copy, "digest": store.digest}},
            "classes": [
                {"name": name, "module": {"store": "digits", "class": name}}
                for name in ("7", "1")
            ],
        },
        spec,
    )
    assert main(["lock", str(spec)]) == 0
    return copy, spec


def swap_saved_model(store):
    """Lets the SavedModel of one class answer for another."""
    for name in ("saved_model.pb", "variables"):
        old, new = store / "7" / name, store / "1" / name
        shutil.rmtree(old) if old.is_dir() else old.unlink()
        (shutil.copytree if new.is_dir() else shutil.copyfile)(new, old)


def swap_archive(store):
    """Puts a module there that does not answer as it did."""
    path = store / "7" / MODULE
    model = keras.saving.load_model(path)
    model.get_layer("calibration").bias.assign([9.0])
    model.save(path)


def reseal(store):
    """Writes the manifests anew, but for what they say of the model."""
    manifest = read_store_manifest(store)
    records = []
    for record in manifest.modules:
        directory = store / record.directory
        old = read_module_manifest(directory, record)
        (directory / "assets.extra/module.yaml").unlink()
        digest = write_module_manifest(directory, old.info, old.content)
        records.append(dataclasses.replace(record, manifest=digest))
    manifest = dataclasses.replace(manifest, modules=tuple(records))
    write_store_manifest(store, manifest)


COMMANDS = {
    "dry-run": ["compose", "--dry-run"],
    "compose": ["compose", "--locked", "--out", "OUT"],
    "lock-check": ["lock", "--check"],
}


@pytest.mark.parametrize("seal", [False, True], ids=["as-it-is", "resealed"])
@pytest.mark.parametrize("swap", [swap_saved_model, swap_archive])
@pytest.mark.parametrize("name", COMMANDS)
def test_swapped_file_is_found_before_it_is_loaded(
    pinned, tmp_path, monkeypatch, capsys, name, swap, seal
):
    store, spec = pinned
    swap(store)
    if seal:
        reseal(store)
        kmod.load_store(store)  # All digests in the store fit.

    def refuse(*args, **kwargs):
        raise AssertionError("deserialised before it was compared")

    monkeypatch.setattr(keras.saving, "load_model", refuse)
    words = [
        word.replace("OUT", str(tmp_path / "out")) for word in COMMANDS[name]
    ]
    assert main([*words, str(spec)]) == 4
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert ("must have this digest" if seal else "has other bytes") in said


@pytest.mark.parametrize("seal", [False, True], ids=["as-it-is", "resealed"])
def test_lock_alone_finds_a_swapped_file(pinned, store, seal, capsys):
    copy, spec = pinned
    text = spec.read_text()
    spec.write_text(text.replace(f", digest: '{store.digest}'", ""))
    assert "digest" not in spec.read_text()
    assert main(["lock", "--check", str(spec)]) == 0
    swap_saved_model(copy)
    if seal:
        reseal(copy)
    assert main(["lock", "--check", str(spec)]) == (5 if seal else 4)
    said = capsys.readouterr().err
    assert ("stores.digits.digest is" if seal else "has other bytes") in said


def test_lock_never_replaces_another_file(pinned, capsys):
    _, spec = pinned
    lock = spec.with_name("spec.lock.yaml")
    lock.write_text("notes: mine\n")
    assert main(["lock", str(spec)]) == 2
    assert lock.read_text() == "notes: mine\n"
    assert "which `kmod lock` did not write" in capsys.readouterr().err


def test_store_that_is_damaged_is_not_locked(pinned):
    store, spec = pinned
    lock = spec.with_name("spec.lock.yaml")
    before = file_digest(lock)
    swap_saved_model(store)
    assert main(["lock", str(spec)]) == 4
    assert file_digest(lock) == before
