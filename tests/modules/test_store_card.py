import dataclasses
import re

import pytest

from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files.model_card import CARD_FILE
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import StoreContent
from kmod.modules.module_store import load_store
from kmod.modules.module_store import save_store
from kmod.modules.store_card import add_card
from kmod.modules.store_card import store_card


def test_card_says_what_the_store_holds(saved):
    card = store_card(saved)
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "datasets:\n- digits\n" in card
    assert "# Modules of source\n" in card
    assert "| T\\-shirt/top | 25\\.0% | 100 | 1,000 |" in card
    assert "8x8x3 with values from 0 to 255" in card
    assert "| before accuracy | 0\\.9 |" in card
    assert f'digest: "{saved.digest}"' in card


def test_card_of_whole_models_speaks_of_no_search(store_copy):
    manifest = read_store_manifest(store_copy)
    manifest = dataclasses.replace(manifest, method="import")
    write_store_manifest(store_copy, manifest)
    card = store_card(load_store(store_copy))
    assert "with all kernels" in card
    assert "found by" not in card and "Small" not in card


def test_file_that_the_card_names_is_there(saved):
    (path,) = re.findall(r'load_model\("(.*?)"', store_card(saved))
    assert (saved.path / path).is_file()


def test_modules_of_layers_of_ones_own_need_kmod(store_copy):
    manifest = read_store_manifest(store_copy)
    manifest = dataclasses.replace(manifest, custom_layers=("own>Layer",))
    write_store_manifest(store_copy, manifest)
    assert "without kmod" not in store_card(load_store(store_copy))


def test_card_belongs_to_the_store_but_not_to_its_digest(store_copy):
    store = load_store(store_copy)
    for _ in range(2):
        add_card(store)
        again = load_store(store_copy)
        assert again.digest == store.digest
        assert again["cat"].info == store["cat"].info
    text = (store_copy / CARD_FILE).read_text(encoding="utf-8")
    assert text.startswith(store_card(store))


def test_edited_card_is_kept(store_copy, modules, manifest):
    add_card(load_store(store_copy))
    card = store_copy / CARD_FILE
    card.write_text(card.read_text(encoding="utf-8").replace("Small", "Tiny"))
    store = load_store(store_copy)
    with pytest.raises(UsageError, match="'README.md' was added"):
        add_card(store)
    with pytest.raises(UsageError, match="'README.md' was added"):
        save_store(store_copy, StoreContent(modules, manifest), overwrite=True)
    assert "Tiny Keras models" in card.read_text(encoding="utf-8")


def test_store_with_its_card_is_replaced(store_copy, modules, manifest):
    add_card(load_store(store_copy))
    save_store(store_copy, StoreContent(modules, manifest), overwrite=True)
    assert not (store_copy / CARD_FILE).exists()


def test_damaged_store_gets_no_card(store_copy):
    store = load_store(store_copy)
    (store_copy / "cat" / "fingerprint.pb").write_bytes(b"")
    with pytest.raises(IntegrityError, match="has other bytes"):
        add_card(store)


def test_other_files_are_no_card(store_copy):
    folder = store_copy / CARD_FILE
    folder.mkdir()
    (folder / "more.txt").write_text("x")
    with pytest.raises(IntegrityError, match="holds only what its manifest"):
        load_store(store_copy)
