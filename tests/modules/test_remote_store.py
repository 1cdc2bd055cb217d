"""Stores at URLs: fetched once, by their digest, whole or not at all."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import pytest

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files import file_digest
from kmod.files import file_record
from kmod.files.plain_yaml import MAX_BYTES
from kmod.files.plain_yaml import read_yaml
from kmod.files.plain_yaml import to_yaml
from kmod.files.remote import CACHE_VARIABLE
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import add_familiarity
from kmod.modules.module_store import load_store
from kmod.modules.remote_store import fetch_store

for package in ("fsspec", "aiohttp"):
    pytest.importorskip(package, reason="needs the extra `remote`")

GOLDEN = Path(__file__).parents[1] / "golden" / "store"
DIGEST = read_store_manifest(GOLDEN).digest
KERAS_FILE = "three/assets.extra/module.keras"
MODULE_FILE = "three/assets.extra/module.yaml"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.got.append(self.path)
        time.sleep(self.server.delay)
        if self.path in self.server.failing:
            self.send_error(503)
        elif self.path in self.server.cut:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"half")
        else:
            super().do_GET()

    def log_message(self, *words):
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Directory of the stores in a cache of the test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "stores"


@pytest.fixture
def published(tmp_path):
    """A copy of a store that is served, with a file that is not its own."""
    path = shutil.copytree(GOLDEN, tmp_path / "site" / "digits")
    (path / "README.md").write_text("# Digits\n")
    return path


@pytest.fixture
def server(published):
    handler = functools.partial(Handler, directory=published.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.got, server.failing, server.cut, server.delay = [], [], [], 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_port}/digits"


def files_of(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def reseal(store, name, change):
    """Changes what the manifest of a module says, and the digests of it."""
    path = store / name
    data = read_yaml(path)
    change(data)
    path.write_text(to_yaml(data), encoding="utf-8")
    data = read_yaml(store / "store.yaml")
    manifest = read_store_manifest(store)
    for record in manifest.modules:
        if name.startswith(f"{record.directory}/"):
            object.__setattr__(record, "manifest", file_digest(path))
    write_store_manifest(store, manifest)
    return manifest.digest


def test_store_is_fetched_and_then_read_without_network(
    server, url, published, cache
):
    store = load_store(f"{url}#{DIGEST}")
    assert store.digest == DIGEST
    assert store.class_names == ("zero", "three", "seven")
    assert store.url == url
    assert store.location == f"{url}#{DIGEST}"
    server.shutdown()
    server.server_close()
    again = load_store(f"{url}#{DIGEST}")
    model = load_store(GOLDEN)["three"].model
    assert again["three"].model.count_params() == model.count_params()
    assert [path.name for path in cache.iterdir()] == [DIGEST[7:]]


def test_only_what_the_manifests_name_is_fetched(server, url, cache):
    fetch_store(f"{url}/#{DIGEST}")
    named = [f"/digits/{path.relative_to(GOLDEN)}" for path in files_of(GOLDEN)]
    assert sorted(server.got) == sorted(named)


def test_nothing_that_could_run_a_model_is_imported(url):
    code = (
        "import sys\n"
        "from kmod.modules.remote_store import fetch_store\n"
        f"fetch_store('{url}#{DIGEST}')\n"
        "print({'keras', 'tensorflow'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


def test_store_without_a_digest_is_refused_with_the_digest(server, url, cache):
    with pytest.raises(UsageError, match=f"which has {DIGEST}. Compare"):
        load_store(url)
    assert server.got == ["/digits/store.yaml"]
    assert not cache.exists()


def test_another_store_is_refused(url, cache):
    with pytest.raises(IntegrityError, match=f"Received: {DIGEST} in '{url}'"):
        load_store(f"{url}#sha256:{'0' * 64}")
    assert not list(cache.iterdir())


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("store.yaml", flip_byte, "store.yaml' is not as kmod wrote it"),
        (MODULE_FILE, flip_byte, "its digest is not the one recorded"),
        (KERAS_FILE, flip_byte, "its digest is not the one recorded"),
        (KERAS_FILE, cut_short, "it ends after .* of .* bytes"),
        (KERAS_FILE, lengthen, "it has more than the .* bytes allowed"),
        ("three/saved_model.pb", flip_byte, "its digest is not the one"),
    ],
)
def test_changed_file_is_refused(url, published, cache, name, change, message):
    change(published / name)
    with pytest.raises(IntegrityError, match=message) as caught:
        load_store(f"{url}#{DIGEST}")
    assert caught.value.exit_code == 4
    assert f"'{url}/{name}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())


def test_huge_manifest_is_not_downloaded(url, published, cache):
    with open(published / "store.yaml", "ab") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(IntegrityError, match=f"more than the {MAX_BYTES} byt"):
        load_store(f"{url}#{DIGEST}")
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/x", "a/../x", "a//x", "C:x", "a\\x", "x?y", "x%2f"],
)
def test_file_outside_the_store_is_refused(server, url, published, cache, name):
    def add(data):
        record = data["files"]["saved_model.pb"]
        data["files"] = {name: {**record}, **data["files"]}

    digest = reseal(published, MODULE_FILE, add)
    with pytest.raises(IntegrityError, match="not one of plain names inside"):
        load_store(f"{url}#{digest}")
    named = [f"/digits/{path.relative_to(GOLDEN)}" for path in files_of(GOLDEN)]
    assert set(server.got) <= set(named)
    assert not list(cache.iterdir())


def write_mark(x):
    Path(os.environ["MARK"]).write_text("executed")
    return x


@keras.saving.register_keras_serializable(package="stranger")
class Stranger(keras.layers.Layer):
    def call(self, x):
        return write_mark(x)


@pytest.mark.parametrize(
    "layer", [keras.layers.Lambda(write_mark), Stranger()], ids=["code", "own"]
)
def test_code_of_a_stranger_is_not_executed(
    url, published, tmp_path, monkeypatch, layer
):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    image = keras.Input((8, 8, 1))
    keras.Model(image, layer(image)).save(published / KERAS_FILE)
    assert (tmp_path / "mark").exists()
    (tmp_path / "mark").unlink()
    record = file_record(published / KERAS_FILE)
    name = KERAS_FILE.removeprefix("three/")
    digest = reseal(
        published,
        MODULE_FILE,
        lambda data: data["files"].update({name: record}),
    )
    store = load_store(f"{url}#{digest}")
    with pytest.raises(ArtifactError, match="three.*module.keras"):
        store["three"]
    assert not (tmp_path / "mark").exists()


def test_file_that_is_gone_is_named(url, published, cache):
    (published / KERAS_FILE).unlink()
    with pytest.raises(ArtifactError, match=f"{KERAS_FILE}' can not be read: "):
        load_store(f"{url}#{DIGEST}")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("fault", ["failing", "cut"])
def test_fault_of_the_server_is_one_line(server, url, cache, fault):
    getattr(server, fault).append(f"/digits/{KERAS_FILE}")
    with pytest.raises(ArtifactError, match="can not be read: ") as caught:
        load_store(f"{url}#{DIGEST}")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())


def test_server_that_is_gone_is_one_line(server, url, cache):
    server.shutdown()
    server.server_close()
    with pytest.raises(ArtifactError, match="store.yaml' can not be read: "):
        load_store(f"{url}#{DIGEST}")
    assert not list(cache.iterdir())


def test_damaged_cache_is_refused(url, cache):
    directory = fetch_store(f"{url}#{DIGEST}")
    flip_byte(directory / KERAS_FILE)
    with pytest.raises(IntegrityError, match="has other bytes"):
        load_store(f"{url}#{DIGEST}")


def test_another_store_in_the_cache_is_refused(url, published, cache):
    directory = fetch_store(f"{url}#{DIGEST}")
    reseal(directory, MODULE_FILE, lambda data: data["metrics"].update(f1=0.5))
    with pytest.raises(IntegrityError, match="Remove that directory"):
        load_store(f"{url}#{DIGEST}")


def test_two_processes_fetch_once(server, url, cache):
    server.delay = 0.1
    code = (
        "from kmod.modules.remote_store import fetch_store\n"
        f"print(fetch_store('{url}#{DIGEST}'))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert out == f"{cache / DIGEST[7:]}\n", err
    assert len(server.got) == len(set(server.got))
    assert [path.name for path in cache.iterdir()] == [DIGEST[7:]]
    load_store(f"{url}#{DIGEST}")


def test_two_threads_fetch_once(server, url, cache):
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(fetch_store(f"{url}#{DIGEST}"))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / DIGEST[7:]] * 2
    assert len(server.got) == len(set(server.got))


def test_fetched_store_is_not_changed(url, images):
    store = load_store(f"{url}#{DIGEST}")
    with pytest.raises(UsageError, match="Copy that directory"):
        add_familiarity(store, (images, [0] * len(images)))


def test_store_in_memory_is_read():
    import fsspec

    files = fsspec.filesystem("memory")
    files.put(str(GOLDEN), "/shelf/digits", recursive=True)
    try:
        store = load_store(f"memory://shelf/digits#{DIGEST}")
    finally:
        files.rm("/shelf", recursive=True)
    assert store.class_names == ("zero", "three", "seven")


@pytest.fixture
def fetched_from_hub(hub, published):
    """Fetches from a local stand-in of the Hub, and returns what is said."""

    def fetched_from_hub(url):
        # Its address is read once, when the package is imported.
        code = (
            "from kmod.modules.remote_store import fetch_store\n"
            f"print(fetch_store({url!r}))\n"
        )
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_ENDPOINT": hub(published)},
        )

    return fetched_from_hub


def test_store_on_the_hub_is_read(fetched_from_hub, cache):
    done = fetched_from_hub(f"hf://somebody/digits#{DIGEST}")
    assert done.stdout == f"{cache / DIGEST[7:]}\n", done.stderr
    assert load_store(cache / DIGEST[7:]).digest == DIGEST


def test_changed_file_on_the_hub_is_refused(fetched_from_hub, published, cache):
    flip_byte(published / KERAS_FILE)
    done = fetched_from_hub(f"hf://somebody/digits#{DIGEST}")
    assert "IntegrityError: 'hf://somebody/digits/three/" in done.stderr
    done = fetched_from_hub(f"hf://somebody/none#{DIGEST}")
    assert "ArtifactError: 'hf://somebody/none/store.yaml' can" in done.stderr
    assert not list(cache.iterdir())


@pytest.fixture
def bucket(monkeypatch):
    """URL of a bucket in a local stand-in of S3."""
    reason = "needs moto[server] and s3fs, of the extras `test` and `remote`"
    moto = pytest.importorskip("moto.server", reason=reason)
    s3fs = pytest.importorskip("s3fs", reason=reason)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("shelf")
    yield "s3://shelf"
    files.rm("shelf", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_store_in_a_bucket_is_read(bucket, cache):
    import s3fs

    files = s3fs.S3FileSystem()
    files.put(str(GOLDEN), "shelf/digits", recursive=True)
    with pytest.raises(ArtifactError, match="no/store.yaml' can not be read"):
        load_store(f"{bucket}/no#{DIGEST}")
    store = load_store(f"{bucket}/digits#{DIGEST}")
    assert store.class_names == ("zero", "three", "seven")


def test_changed_file_in_a_bucket_is_refused(bucket, published, cache):
    import s3fs

    flip_byte(published / KERAS_FILE)
    s3fs.S3FileSystem().put(str(published), "shelf/digits", recursive=True)
    with pytest.raises(IntegrityError, match="its digest is not the one"):
        load_store(f"{bucket}/digits#{DIGEST}")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("package", ["fsspec", "aiohttp"])
def test_packages_that_are_missing_are_named(url, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ArtifactError, match=r"pip install 'kmod\[remote\]'"):
        load_store(f"{url}#{DIGEST}")


def test_cache_may_be_read_only(url, cache):
    fetch_store(f"{url}#{DIGEST}")
    before = sorted(os.listdir(cache))
    os.chmod(cache, 0o555)
    try:
        assert load_store(f"{url}#{DIGEST}").digest == DIGEST
    finally:
        os.chmod(cache, 0o755)
    assert sorted(os.listdir(cache)) == before
