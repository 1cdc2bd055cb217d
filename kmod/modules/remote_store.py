"""Module stores at URLs: fetched once, by the digest that pins them."""

import contextlib
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files import atomic_directory
from kmod.files import claimed
from kmod.files.remote import RemoteDirectory
from kmod.files.remote import cache_directory
from kmod.files.remote import split_pin
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import MODULE_FILE
from kmod.modules.manifest import STORE_FILE
from kmod.modules.manifest import StoreManifest
from kmod.modules.manifest import read_module_manifest
from kmod.modules.manifest import read_store_manifest

_CONNECTIONS = 8

_one_at_a_time = threading.Lock()


def fetch_store(url: str) -> Path:
    """Fetches a module store, unless the cache has it already.

    Only the files that its manifests name are downloaded, each is compared
    with its digest, and all or none of them come into the cache.

    Args:
        url: `URL#sha256:...`, with the store's digest as `kmod inspect`
            prints it.

    Returns:
        Directory of the store in the cache.

    Raises:
        ArtifactError: If it can not be read.
        IntegrityError: If it is not the store of that digest.
        UsageError: If the URL has no digest; the message names it.
    """
    place, digest = split_pin(url)
    if digest is None:
        raise UsageError(
            "A store at a URL is taken by its digest, so that nobody can put "
            f"another in its place. Received: '{url}', which has "
            f"{_present_digest(place)}. Compare that with what its publisher "
            "says, then put it behind a `#`, or in a spec into `digest`."
        )
    directory = cache_directory() / "stores" / digest.partition(":")[2]
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time, claimed(directory, wait=True):
            if not directory.is_dir():  # Another process was faster.
                with atomic_directory(directory) as temporary:
                    _download(RemoteDirectory(place), temporary, digest)
    _check_digest(
        read_store_manifest(directory),
        digest,
        f"'{directory}'. Remove that directory, and it is fetched again",
    )
    return directory


def _present_digest(url):
    with tempfile.TemporaryDirectory() as folder:
        return _manifest(RemoteDirectory(url), Path(folder)).digest


def _download(remote, directory, digest):
    manifest = _manifest(remote, directory)
    _check_digest(
        manifest,
        digest,
        f"'{remote.url}'. Correct the digest if that is the store you want",
    )
    if record := manifest.familiarity:
        path = directory / FAMILIARITY_FILE
        remote.download(
            FAMILIARITY_FILE, path, record["size"], record["digest"]
        )
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        modules = [
            pool.submit(_download_module, remote, directory, record)
            for record in manifest.modules
        ]
        try:
            for module in modules:
                module.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _download_module(remote, directory, record):
    own = directory / record.directory
    remote.download(
        f"{record.directory}/{MODULE_FILE}",
        own / MODULE_FILE,
        digest=record.manifest,
    )
    with _named(remote.url, directory):
        files = read_module_manifest(own, record).files
    for name, file in files.items():
        remote.download(
            f"{record.directory}/{name}",
            own / name,
            file["size"],
            file["digest"],
        )


def _manifest(remote, directory) -> StoreManifest:
    remote.download(STORE_FILE, directory / STORE_FILE)
    with _named(remote.url, directory):
        return read_store_manifest(directory)


def _check_digest(manifest, digest, where):
    if manifest.digest != digest:
        raise IntegrityError(
            f"The store that is pinned has the digest {digest}. Received: "
            f"{manifest.digest} in {where}."
        )


@contextlib.contextmanager
def _named(url, temporary):
    """Lets errors name the store, not where it is put together."""
    try:
        yield
    except ArtifactError as error:
        message = str(error).replace(str(temporary), url)
        raise type(error)(message) from error
