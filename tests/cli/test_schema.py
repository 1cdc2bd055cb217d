import json

from kmod.cli.main import main
from kmod.spec.reference import reference_markdown
from kmod.spec.schema import read_schema


def test_schema_is_printed_as_json(capsys):
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == read_schema()
    assert err == ""


def test_keys_are_printed_as_tables(capsys):
    assert main(["schema", "--markdown"]) == 0
    assert capsys.readouterr() == (reference_markdown(), "")
