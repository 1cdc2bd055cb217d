import os

import pytest

from kmod.errors import IntegrityError
from kmod.files import data_digest
from kmod.files import file_digest
from kmod.files import read_files

ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "inner").write_text("abc")
    (tmp_path / "a").write_text("abc")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_file_digest(directory):
    assert file_digest(directory / "a") == ABC


def test_files_are_in_order_without_directories(directory):
    assert list(read_files(directory).items()) == [
        ("a", {"size": 3, "digest": ABC}),
        ("b/inner", {"size": 3, "digest": ABC}),
    ]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda p: p.symlink_to("a"), id="link"),
        pytest.param(lambda p: p.symlink_to("b"), id="link-to-directory"),
        pytest.param(lambda p: p.symlink_to("gone"), id="dangling-link"),
        pytest.param(lambda p: p.symlink_to("."), id="loop"),
        pytest.param(os.mkfifo, id="named-pipe"),
    ],
)
def test_only_files_and_directories_are_read(directory, make):
    make(directory / "b" / "odd")
    with pytest.raises(IntegrityError, match="odd', a link or special file"):
        read_files(directory)


def test_data_digest_ignores_the_order_of_keys_only():
    digest = data_digest({"a": [1, 2.0], "b": None})
    assert digest == data_digest({"b": None, "a": [1, 2.0]})
    assert digest != data_digest({"a": [2.0, 1], "b": None})
