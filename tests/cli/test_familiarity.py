import json

from kmod.cli.main import main
from kmod.modules.module_store import load_store


def test_store_gets_a_familiarity_of_its_classes(older, digits, capsys):
    argv = ["familiarity", str(older.path), "--data", "digits"]
    assert main([*argv, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["classes"] == list(digits.class_names)
    count = len(digits.train) + len(digits.validation)
    assert figures["num_images"] == count
    assert load_store(older.path).familiarity.num_images == count
    assert main(argv) == 0
    assert f"what {count:,} images of 3 classes" in capsys.readouterr().err


def test_data_must_show_the_classes(older, capsys):
    digest = older.digest
    argv = [
        "familiarity",
        str(older.path),
        "--data",
        "digits",
        "--classes",
        "1,2",
    ]
    assert main(argv) == 3
    assert "'3'" in capsys.readouterr().err
    assert load_store(older.path).digest == digest
