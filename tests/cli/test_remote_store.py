"""Commands that take a store take its URL and digest, too."""

import json
import sys
from pathlib import Path

import pytest

from kmod.cli.main import main
from kmod.composition.lock import lock_path
from kmod.files.plain_yaml import read_yaml
from kmod.files.remote import CACHE_VARIABLE
from kmod.modules.module_store import load_store
from kmod.spec.model import StoreRef
from kmod.spec.spec_file import load_spec

fsspec = pytest.importorskip("fsspec", reason="needs the extra `remote`")

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Puts stores where they have a URL, and returns it with their digest."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")

    def publish(path, name="digits"):
        files.put(str(path), f"/shelf/{name}", recursive=True)
        return f"memory://shelf/{name}", load_store(path).digest

    yield publish
    files.rm("/shelf", recursive=True)


@pytest.fixture
def spec(publish, tmp_path):
    """A spec of a published store, and the store's digest."""
    url, digest = publish(GOLDEN / "store")
    path = tmp_path / "two.yaml"
    text = (GOLDEN / "two.yaml").read_text()
    pinned = f'{{path: "{url}", digest: "{digest}"}}'
    path.write_text(text.replace("{path: store}", pinned))
    return path


def test_inspect_says_which_digest_a_url_has(publish, capsys):
    url, digest = publish(GOLDEN / "store")
    assert main(["inspect", url]) == 2
    assert f"which has {digest}." in capsys.readouterr().err
    assert main(["inspect", f"{url}#{digest}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest


@pytest.mark.parametrize(
    "words", [["inspect"], ["test"], ["report", "--out", "x.html"]]
)
def test_another_store_at_the_url_is_refused(
    publish, tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    url, _ = publish(GOLDEN / "store")
    assert main([*words, f"{url}#sha256:{'0' * 64}"]) == 4
    assert "The store that is pinned" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_store_at_a_url_is_tested(publish, capsys):
    url, digest = publish(GOLDEN / "store")
    assert main(["test", f"{url}#{digest}", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["outcome"] == "passed"


def test_composed_model_remembers_the_url(spec, tmp_path, capsys):
    out = tmp_path / "two"
    assert main(["lock", str(spec)]) == 0
    assert main(["compose", str(spec), "--locked", "--out", str(out)]) == 0
    (store,) = load_spec(spec).stores.values()
    (saved,) = load_spec(out / "spec.yaml").stores.values()
    assert saved == store
    locked = read_yaml(lock_path(spec))["stores"]["golden"]
    assert locked["digest"] == store.digest
    assert store.path in capsys.readouterr().out


def test_fault_of_a_store_at_a_url_has_its_place(spec, capsys):
    text = spec.read_text()
    spec.write_text(text.replace("shelf/digits", "shelf/none"))
    assert main(["compose", str(spec), "--dry-run"]) == 3
    message = capsys.readouterr().err
    assert f"{spec.name}:5:18: 'memory://shelf/none/store.yaml' can" in message
    digest = load_store(GOLDEN / "store").digest
    spec.write_text(text.replace(digest, f"sha256:{'0' * 64}"))
    assert main(["compose", str(spec), "--dry-run"]) == 4
    assert f"{spec.name}:5:18: The store that is" in capsys.readouterr().err


def test_spec_is_checked_without_fsspec(spec, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert main(["check", str(spec)]) == 0
    assert main(["compose", str(spec), "--dry-run"]) == 3
    assert "pip install 'kmod[remote]'" in capsys.readouterr().err


def test_choose_names_the_url(store, publish, tmp_path, capsys):
    url, digest = publish(store.path)
    path = tmp_path / "task.yaml"
    classes = ["--class", "7", "--class", "1"]
    given = ["--store", f"{url}#{digest}", "--data", "digits:validation"]
    assert main(["choose", *classes, *given, "--out", str(path)]) == 0
    assert load_spec(path).stores == {"digits": StoreRef(url, digest)}


@pytest.mark.long
@pytest.mark.parametrize(
    ("ending", "more"), [("", []), (":8", ["--no-auxiliary"])]
)
def test_patch_names_the_url(
    store, weak_path, publish, tmp_path, capsys, ending, more
):
    url, digest = publish(store.path)
    out = tmp_path / "patched"
    given = ["--donor", f"{url}#{digest}{ending}", "--target-class", "8"]
    data = ["--data", "digits:validation", "--out", str(out)]
    assert main(["patch", str(weak_path), *given, *data, *more]) == 0
    assert load_spec(out / "spec.yaml").stores["donor"] == StoreRef(url, digest)


def test_familiarity_is_not_added_to_what_was_fetched(store, publish, capsys):
    url, digest = publish(store.path)
    words = ["familiarity", f"{url}#{digest}", "--data", "digits"]
    assert main(words) == 2
    assert "Copy that directory" in capsys.readouterr().err
