import os
import re
import time

import pytest

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.files.plain_yaml import MAX_BYTES
from kmod.files.plain_yaml import RefusedYamlError
from kmod.files.plain_yaml import parse_yaml
from kmod.files.plain_yaml import read_yaml
from kmod.files.plain_yaml import to_yaml

ALIAS_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"no": "yes", "1": "010", "~": "null"}, id="look-alikes"),
        pytest.param({"names": ["../x", "🐟", "a\nb", "&a *b !c"]}, id="texts"),
        pytest.param({"x": [1e-5, 1e20, -0.0, 255.0, 3]}, id="numbers"),
        pytest.param({"x": None, "y": [], "z": {}}, id="empty"),
        pytest.param({"2020-01-01": "2020-01-01"}, id="dates"),
        pytest.param({"x": [float("inf"), float("nan")]}, id="not-finite"),
        pytest.param({"<<": "<<"}, id="merge-key-as-text"),
        pytest.param({"x": "a\u2028b\u0085c\ufeff"}, id="line-breaks"),
    ],
)
def test_round_trip(tmp_path, data):
    path = tmp_path / "file.yaml"
    path.write_text(to_yaml(data), encoding="utf-8")
    assert repr(read_yaml(path)) == repr(data)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("a: [1", "expected ',' or ']'", id="truncated"),
        pytest.param("a: 1\na: 2", "key 'a' appears twice", id="repeated-key"),
        pytest.param("a: {b: 1, b: 2}", "key 'b' appears twice", id="nested"),
        pytest.param("<<: {a: 1}", "merge keys (<<) are not", id="merge-key"),
        pytest.param("[a]: 1", "a key is plain text", id="list-as-key"),
        pytest.param(ALIAS_BOMB, "anchors and aliases", id="alias-bomb"),
        pytest.param("a: *a", "anchors and aliases", id="alias"),
        pytest.param(
            "!!python/name:os.x ''", "tags (!) are not", id="python-tag"
        ),
        pytest.param("a: !!str 1", "tags (!) are not", id="plain-tag"),
        pytest.param("[" * 100, "at most 32 levels", id="deep"),
        pytest.param("[" * 10000, "at most 32 levels", id="deeper"),
        pytest.param(
            "a: 1\n---\nb: 1", "is one YAML document", id="two-documents"
        ),
        pytest.param("a: \x00", "control characters", id="nul"),
        pytest.param(b"a: \xff", "can't decode byte", id="not-utf8"),
    ],
)
def test_other_yaml_is_refused(tmp_path, text, reason):
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = f"'{path}' is not as kmod wrote it: .*{re.escape(reason)}"
    with pytest.raises(IntegrityError, match=message):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        pytest.param("1: a", {"1": "a"}, id="number-as-key"),
        pytest.param("a: 2020-13-45", {"a": "2020-13-45"}, id="no-such-date"),
        pytest.param("a: " + "9" * 5000, {"a": "9" * 5000}, id="huge-number"),
        pytest.param("a: 1:30", {"a": "1:30"}, id="to-the-base-of-60"),
        pytest.param(
            "a: " + "1:" * 9999 + "1",
            {"a": "1:" * 9999 + "1"},
            id="huge-to-the-base-of-60",
        ),
    ],
)
def test_what_yaml_has_no_plain_value_for_is_text(tmp_path, text, data):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert read_yaml(path) == data


def test_parts_have_their_places():
    document = parse_yaml("# why\na: no\nb: [010, {c: 0x1F}]\n")
    assert document.data == {"a": False, "b": [8, {"c": 31}]}
    assert document.keys[("b", 1, "c")] == (3, 11)
    assert document.values[()] == (2, 1)
    assert document.values[("b", 1, "c")] == (3, 14)
    assert document.texts[("b", 0)] == "010"


def test_a_caller_says_what_stays_text():
    def is_text(path, value):
        return path == ("a",) or value == 8

    document = parse_yaml("a: no\nb: [010, 1]\n", is_text=is_text)
    assert document.data == {"a": "no", "b": ["010", 1]}


def test_a_caller_says_how_many_values_there_may_be():
    assert parse_yaml("[1, 2]", max_values=3).data == [1, 2]
    with pytest.raises(RefusedYamlError, match="line 1, column 8: a spec has"):
        parse_yaml("[1, 2, 3]", "a spec", max_values=3)


def test_large_file_is_not_read(tmp_path):
    path = tmp_path / "file.yaml"
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    start = time.process_time()
    with pytest.raises(IntegrityError, match="more than the 8388608 allowed"):
        read_yaml(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.symlink_to(__file__), id="link"),
        pytest.param(lambda path: path.mkdir(), id="directory"),
        pytest.param(os.mkfifo, id="named-pipe"),
    ],
)
def test_only_files_are_read(tmp_path, make):
    make(tmp_path / "file.yaml")
    with pytest.raises(IntegrityError, match="a link or special file"):
        read_yaml(tmp_path / "file.yaml")


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="No such file or directory"):
        read_yaml(tmp_path / "file.yaml")


@pytest.mark.parametrize(
    "text",
    ["1" + ":1" * 200_000, "1" + ":1" * 200_000 + ".5", "0x" + "f" * 200_000],
    ids=["base-60", "base-60-float", "hexadecimal"],
)
def test_numbers_that_take_long_are_text(text):
    assert parse_yaml(f"a: {text}").data == {"a": text}
