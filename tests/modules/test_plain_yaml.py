import os
import re
import time

import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.modules.plain_yaml import MAX_BYTES
from kmod.modules.plain_yaml import read_yaml
from kmod.modules.plain_yaml import to_plain
from kmod.modules.plain_yaml import to_yaml

ALIAS_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"no": "yes", "1": "010", "~": "null"}, id="look-alikes"),
        pytest.param({"names": ["../x", "🐟", "a\nb", "&a *b !c"]}, id="texts"),
        pytest.param({"x": [1e-5, 1e20, -0.0, 255.0, 3]}, id="numbers"),
        pytest.param({"x": None, "y": [], "z": {}}, id="empty"),
        pytest.param({"2020-01-01": "2020-01-01"}, id="dates"),
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
        pytest.param("1: a", "keys must be texts", id="number-as-key"),
        pytest.param("<<: {a: 1}", "keys must be texts", id="merge-key"),
        pytest.param("[a]: 1", "keys must be texts", id="list-as-key"),
        pytest.param(ALIAS_BOMB, "anchors and aliases", id="alias-bomb"),
        pytest.param("a: *a", "anchors and aliases", id="alias"),
        pytest.param("!!python/name:os.x ''", "tags are not", id="python-tag"),
        pytest.param("a: !!str 1", "tags are not allowed", id="plain-tag"),
        pytest.param("[" * 100, "deeper than 16 levels", id="deep"),
        # libyaml 0.2.6 meets a limit of its own first, in other words.
        pytest.param("[" * 10000, "", id="deeper"),
        pytest.param("a: 1\n---\nb: 1", "single document", id="two-documents"),
        pytest.param("a: 2020-13-45", "month must be in", id="no-such-date"),
        pytest.param("a: " + "9" * 5000, "4300 digits", id="huge-number"),
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


def test_large_file_is_not_read(tmp_path):
    path = tmp_path / "file.yaml"
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    start = time.monotonic()
    with pytest.raises(IntegrityError, match="more than the 8388608 allowed"):
        read_yaml(path)
    assert time.monotonic() - start < 1


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


def test_numpy_values_become_plain():
    data = {"a": np.float32(0.5), "b": np.arange(2), 3: (np.bool_(True),)}
    plain = to_plain(data)
    assert plain == {"a": 0.5, "b": [0, 1], "3": [True]}
    assert type(plain["a"]) is float
    assert type(plain["3"][0]) is bool


def test_other_objects_have_no_plain_form():
    with pytest.raises(TypeError, match="Received: .* of type set"):
        to_plain({"a": {1, 2}})
