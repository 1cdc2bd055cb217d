import json

import pytest

from kmod.cli import console


def test_json_goes_to_stdout_as_it_is(capsys):
    data = {"class": "caf\u00e9 [red]", "long": "x" * 300}
    console.print_json(data)
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (data, "")


def test_messages_go_to_stderr_on_one_line(capsys):
    console.print_message("[red] " + "x" * 300, style="red")
    assert capsys.readouterr() == ("", "[red] " + "x" * 300 + "\n")


def test_table_aligns_numbers_right(capsys):
    console.print_table(
        ["class", "F1"], [["cat [x]", 0.5], ["dog", 10]], title="Classes"
    )
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "Classes",
        " class     F1",
        " cat [x]  0.5",
        " dog       10",
    ]


def test_progress_is_silent_without_a_terminal(capsys):
    assert list(console.track([1, 2], "counting")) == [1, 2]
    with console.status("thinking"):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def verbosity():
    yield console.set_verbosity
    console.set_verbosity("normal")


def test_quiet_leaves_out_notes(capsys, verbosity):
    verbosity("quiet")
    console.print_note("Saved.")
    console.print_message("warning: old")
    console.print_data("0.5")
    assert capsys.readouterr() == ("0.5\n", "warning: old\n")


def test_verbose_shows_progress_without_a_terminal(capsys, verbosity):
    verbosity("verbose")
    assert list(console.track([1, 2], "counting")) == [1, 2]
    with console.status("thinking"):
        console.print_note("Saved.")
    assert capsys.readouterr().err == "counting …\nthinking …\nSaved.\n"


@pytest.mark.parametrize(
    ("said", "is_person", "colours", "expected"),
    [
        pytest.param("normal", True, True, "auto", id="bar"),
        pytest.param("normal", True, False, 2, id="no-color"),
        pytest.param("normal", False, True, 0, id="log"),
        pytest.param("verbose", False, True, 2, id="verbose-log"),
        pytest.param("quiet", True, True, 0, id="quiet"),
    ],
)
def test_training_shows_as_much(
    monkeypatch, verbosity, said, is_person, colours, expected
):
    monkeypatch.setattr(console, "is_interactive", lambda: is_person)
    monkeypatch.setattr(console._ERR, "no_color", not colours)
    verbosity(said)
    assert console.training_verbosity() == expected


@pytest.mark.parametrize(
    ("line", "column", "shown"),
    [
        pytest.param("abc", 2, "    abc\n     ^", id="short"),
        pytest.param("", 1, "    \n    ^", id="end-of-file"),
        pytest.param("a\x1bb", 3, "    a\ufffdb\n      ^", id="escape"),
        pytest.param("\u732bb", 2, "    \u732bb\n      ^", id="wide-letter"),
        pytest.param(
            "x" * 500, 300, f"    {'x' * 120}\n    {' ' * 60}^", id="long"
        ),
    ],
)
def test_point_at(line, column, shown):
    assert console.point_at(line, column) == shown


def test_control_characters_do_not_reach_the_terminal(capsys):
    for show in (console.print_message, console.print_data):
        show("cat\x1b[31m\x9b0m")
    console.print_table(["class"], [["cat\x1b[31m"]])
    console.print_json({"class": "cat\x1b[31m\x9b"})
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said and "\x9b" not in said
    assert said.count("cat\ufffd[31m") == 3
    assert '"cat\\u001b[31m\\u009b"' in said
