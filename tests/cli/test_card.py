import shutil
from pathlib import Path

import pytest

from kmod.cli.main import main
from kmod.modules.module_store import load_store

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def store_path(tmp_path):
    return shutil.copytree(GOLDEN / "store", tmp_path / "store")


@pytest.fixture
def hub():
    return pytest.importorskip(
        "huggingface_hub", reason="needs the extra `remote`"
    )


def test_card_of_a_store_is_printed(store_path, hub, capsys):
    assert main(["card", str(store_path)]) == 0
    card = hub.ModelCard(capsys.readouterr().out, ignore_metadata_errors=False)
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert not (store_path / "README.md").exists()


def test_card_of_a_store_is_saved(store_path, hub):
    assert main(["card", str(store_path), "--save"]) == 0
    card = hub.ModelCard.load(store_path / "README.md")
    assert card.data.library_name == "keras"
    assert load_store(store_path).digest in card.text
    assert main(["test", str(store_path)]) == 0


@pytest.mark.parametrize("name", ["two", "patched", "slim"])
def test_card_of_a_model_is_the_one_it_holds(name, hub, capsys):
    assert main(["card", str(GOLDEN / name)]) == 0
    text = (GOLDEN / name / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    hub.ModelCard(text, ignore_metadata_errors=False)


def test_model_that_was_changed_has_no_card(tmp_path, capsys):
    path = shutil.copytree(GOLDEN / "two", tmp_path / "two")
    (path / "README.md").write_text("better")
    assert main(["card", str(path)]) == 4
    assert "'README.md' has other bytes" in capsys.readouterr().err


def test_card_of_nothing_is_refused(tmp_path, capsys):
    assert main(["card", str(tmp_path / "no")]) == 3
    assert main(["card", str(tmp_path)]) == 3
    assert "A module store is a directory" in capsys.readouterr().err
