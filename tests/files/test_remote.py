import re
import sys
from pathlib import Path

import pytest

from kmod.errors import UsageError
from kmod.files import remote
from kmod.files.remote import cache_directory
from kmod.files.remote import is_url
from kmod.files.remote import split_pin
from kmod.files.schemas import read_schema
from kmod.spec.faults import SPEC_SCHEMA

DIGEST = "sha256:" + "a" * 64
URLS = (
    "https://host:8080/modules/digits",
    "http://host",
    "hf://name/digits@v1.0",
    "s3://bucket/a/b",
    "memory://a",
)
REFUSED = (
    "ftp://host/digits",
    "file:///srv/digits",
    "simplecache::https://host/digits",
    "https://",
    "https://user:word@host/digits",
    "https://host/a/../digits",
    "https://host/..",
    "https://host//digits",
    "https://host/digits?version=1",
    "https://host/digits#main",
    "https://host/a digits",
    "https://host\\digits",
)


@pytest.mark.parametrize("url", URLS)
def test_url_is_split_from_its_digest(url):
    assert split_pin(f"{url}#{DIGEST}") == (url, DIGEST)
    assert split_pin(f"{url}/#{DIGEST}") == (url, DIGEST)
    assert split_pin(url) == (url, None)


@pytest.mark.parametrize("url", REFUSED)
def test_other_urls_are_refused(url):
    with pytest.raises(UsageError, match="A URL begins with one of https, "):
        split_pin(url)


@pytest.mark.parametrize("url", [*URLS, *REFUSED])
def test_specs_accept_the_same_urls(url):
    pattern = read_schema(SPEC_SCHEMA)["$defs"]["store_path"]["pattern"]
    is_accepted = re.search(pattern, url) is not None
    assert is_accepted == (url in URLS)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("https://host/a", True),
        ("ftp://host/a", True),
        ("./a:b", False),
        ("C:\\a", False),
        (Path("https://host/a"), False),
    ],
)
def test_urls_are_told_from_paths(place, expected):
    assert is_url(place) is expected


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, ".cache/kmod"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/kmod"),
        ("darwin", {}, "Library/Caches/kmod"),
        ("win32", {}, "AppData/Local/kmod/Cache"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/kmod/Cache"),
        ("linux", {"KMOD_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/x"}, "/own"),
    ],
)
def test_cache_is_where_the_system_has_caches(
    monkeypatch, platform, variables, expected
):
    for name in ("KMOD_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(remote.Path, "home", lambda: Path("/home/me"))
    assert cache_directory() == Path("/home/me", expected)
