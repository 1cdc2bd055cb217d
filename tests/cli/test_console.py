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
