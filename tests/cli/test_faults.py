import pytest

from kmod.cli import console
from kmod.cli.faults import print_faults
from kmod.files.plain_yaml import Fault
from kmod.spec.faults import InvalidSpecError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pets.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 2\nname: \xff\n")
    return path


def test_one_line_for_each_fault(path, capsys):
    print_faults(InvalidSpecError(path, [Fault(2, 7, "b"), Fault(1, 10, "a")]))
    lines = f"{path}:1:10: a\n{path}:2:7: b\n"
    assert capsys.readouterr() == ("", lines)


def test_terminal_shows_where(path, capsys, monkeypatch):
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    print_faults(InvalidSpecError(path, [Fault(1, 10, "a"), Fault(2, 7, "b")]))
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:1:10: a",
        "    version: 2",
        "             ^",
        f"{path}:2:7: b",
        "    name: \ufffd",
        "          ^",
    ]


@pytest.mark.parametrize("line", [4, 99])
def test_place_that_is_not_in_the_file_has_no_source(
    path, capsys, monkeypatch, line
):
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    print_faults(InvalidSpecError(path, [Fault(line, 1, "a")]))
    assert capsys.readouterr().err == f"{path}:{line}:1: a\n"


def test_file_that_is_gone_has_no_source(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    print_faults(InvalidSpecError(tmp_path / "x", [Fault(1, 1, "a")]))
    assert capsys.readouterr().err == f"{tmp_path / 'x'}:1:1: a\n"
