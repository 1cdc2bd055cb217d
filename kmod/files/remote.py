"""Files of artifacts that lie elsewhere, and where they are kept here.

What is downloaded is data: it is held against a size and a digest while it
comes, and nobody reads it before.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.files.plain_yaml import MAX_BYTES

# Other schemes of fsspec are of this machine, or compute what they answer.
SCHEMES = ("https", "http", "hf", "s3", "gs", "az", "memory")
CACHE_VARIABLE = "KMOD_CACHE_DIR"
_CHUNK = 2**20
_SECONDS = 60  # Without an answer.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PART = r"(?!\.\.?(?:/|$))[^/\s?#\\]+"
_URL = re.compile(
    rf"(?:{'|'.join(SCHEMES)})://(?![^/]*@){_PART}(?:/{_PART})*/?"
)
_PIN = re.compile(r"(.*)#(sha256:[0-9a-f]{64})")
_NAME = re.compile(r"(?:(?!\.\.?(?:/|$))[\w.-]+(?:/(?!$)|$))+", re.ASCII)


def is_url(place: str | Path) -> bool:
    """Tells whether a place is a URL, of whatever scheme, and no path."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


def split_pin(url: str) -> tuple[str, str | None]:
    """Splits `URL#sha256:...` into the URL and its digest.

    Returns:
        The URL and the digest; `None` if it has none.

    Raises:
        UsageError: If the URL is none that is read here.
    """
    pinned = _PIN.fullmatch(url)
    place, digest = pinned.groups() if pinned else (url, None)
    if not _URL.fullmatch(place):
        raise UsageError(
            f"A URL begins with one of {', '.join(SCHEMES)} and `://`, holds "
            "neither user, query, space nor `..`, and ends in its digest, "
            f"`#sha256:` and 64 hexadecimal digits. Received: '{url}'."
        )
    return place.rstrip("/"), digest


def cache_directory() -> Path:
    """Returns where downloads are kept.

    That is what the environment variable KMOD_CACHE_DIR says, or else the
    folder `kmod` in the user's cache.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser().absolute()
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given).absolute() / "kmod"
    home = Path.home()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local or home / "AppData/Local") / "kmod" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "kmod"
    return home / ".cache" / "kmod"


class RemoteDirectory:
    """A directory at a URL, whose files are downloaded one by one.

    Args:
        url: Its URL, without a digest.

    Raises:
        ArtifactError: If the packages for it are not installed.
    """

    def __init__(self, url: str):
        self.url = url
        # Streamed, not read in blocks that a server may not have.
        is_stream = url.startswith(("http", "hf"))
        self._options = {"block_size": 0} if is_stream else {}
        options = {}
        try:
            import fsspec

            if url.startswith("http"):
                from aiohttp import ClientTimeout

                # A file may take long, as long as it comes.
                limits = ClientTimeout(
                    total=None, sock_connect=_SECONDS, sock_read=_SECONDS
                )
                options["client_kwargs"] = {"timeout": limits}
            self._files, self._root = fsspec.url_to_fs(url, **options)
        except ImportError as error:
            raise ArtifactError(
                f"What lies at a URL is read by fsspec. Received: '{url}', "
                f"but {reason_of(error)}. Install it with `pip install "
                "'kmod[remote]'`, or download the store and give its directory."
            ) from error

    def download(
        self,
        name: str,
        path: Path,
        size: int | None = None,
        digest: str | None = None,
    ) -> None:
        """Downloads a file.

        Args:
            name: Its path from the directory, as a manifest names it.
            path: File to write; its parent directories are made.
            size: Its bytes. Defaults to any number that a manifest may have.
            digest: Its digest. Defaults to any.

        Raises:
            ArtifactError: If it can not be read.
            IntegrityError: If it is another one, or lies outside.
        """
        if not _NAME.fullmatch(name):
            raise self._broken(
                name, "its path is not one of plain names inside the store"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        limit = MAX_BYTES if size is None else size
        received, found = 0, hashlib.sha256()
        with open(path, "wb") as file:
            for chunk in self._chunks(name):
                received += len(chunk)
                if received > limit:
                    raise self._broken(
                        name, f"it has more than the {limit} bytes allowed"
                    )
                found.update(chunk)
                file.write(chunk)
        if size is not None and received < size:
            raise self._broken(
                name, f"it ends after {received} of {size} bytes"
            )
        if digest not in (None, f"sha256:{found.hexdigest()}"):
            raise self._broken(name, "its digest is not the one recorded")

    def _chunks(self, name):
        try:
            place = f"{self._root}/{name}"
            with self._files.open(place, "rb", **self._options) as remote:
                while chunk := remote.read(_CHUNK):
                    yield chunk
        except FileNotFoundError as error:
            raise self._unreadable(name, "there is none") from error
        except Exception as error:  # Of every protocol, its own classes.
            raise self._unreadable(name, reason_of(error)) from error

    def _unreadable(self, name, reason):
        return ArtifactError(
            f"'{self.url}/{name}' can not be read: {reason}. Look at the URL, "
            "the network and what you may read there."
        )

    def _broken(self, name, reason):
        return IntegrityError(
            f"'{self.url}/{name}' is not what the store names: {reason}. "
            "Nothing of it was kept. Try again, or ask who published it."
        )
