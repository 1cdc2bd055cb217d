import dataclasses
import json
import shutil

import pytest

from kmod.cli.main import main
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import load_store


@pytest.fixture
def older(donor, tmp_path):
    """A store of the digits 3, 8 and 9, as earlier versions wrote them."""
    path = shutil.copytree(donor.path, tmp_path / "older")
    (path / FAMILIARITY_FILE).unlink(missing_ok=True)
    manifest = dataclasses.replace(donor.manifest, familiarity=None)
    write_store_manifest(path, manifest)
    return path


def test_store_gets_a_familiarity_of_its_classes(older, digits, capsys):
    argv = ["familiarity", str(older), "--data", "digits"]
    assert main([*argv, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["classes"] == list(digits.class_names)
    count = len(digits.train) + len(digits.validation)
    assert figures["num_images"] == count
    assert load_store(older).familiarity.num_images == count
    assert main(argv) == 0
    assert f"what {count:,} images of 3 classes" in capsys.readouterr().err


def test_data_must_show_the_classes(older, capsys):
    digest = load_store(older).digest
    argv = ["familiarity", str(older), "--data", "digits", "--classes", "1,2"]
    assert main(argv) == 3
    assert "'3'" in capsys.readouterr().err
    assert load_store(older).digest == digest
