"""YAML files that people write, such as specs: reads them with all places."""

import codecs
import os
import re
import unicodedata
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmod.errors import UsageError
from kmod.files.plain_yaml import Document
from kmod.files.plain_yaml import Fault
from kmod.files.plain_yaml import KeyPath
from kmod.files.plain_yaml import RefusedYamlError
from kmod.files.plain_yaml import parse_yaml
from kmod.files.plain_yaml import shorten
from kmod.spec.faults import InvalidSpecError

# Every value of a spec is explained, compared with near misses and located,
# so a spec may hold less than what is only read. It is enough for 5000 classes.
MAX_BYTES = 2**20
MAX_VALUES = 25_000

# What YAML allows, less a byte order mark and exotic line breaks.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ufefe\uff00-\ufffd"
    "\U00010000-\U0010ffff]"
)


def read_content(path: str | Path, what: str) -> bytes:
    """Reads a file that a person wrote, but no more than it may hold.

    Args:
        path: The file.
        what: What it is, to say it in errors, such as `"a spec"`.

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidSpecError: If it is a pipe or a device.
        UsageError: If `path` is none.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(
            f"The path of {what} must be text or a `Path`. Received: an object "
            f"of type {type(path).__name__}. Write it to a YAML file, and give "
            "the path of that."
        )
    if Path(path).exists() and not (
        Path(path).is_file() or Path(path).is_dir()
    ):
        message = f"{what} is a regular file. Received: a pipe or device."
        raise InvalidSpecError(path, [Fault(1, 1, message)])
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def parse_document(
    content: bytes,
    path: str | Path,
    what: str,
    is_text: Callable[[KeyPath, Any], bool],
) -> Document:
    """Parses a file's content into plain data with places.

    Args:
        content: The YAML text in UTF-8.
        path: Where the file is, or shall be.
        what: What it is, to say it in errors.
        is_text: As `parse_yaml` takes it.

    Raises:
        InvalidSpecError: If it is not YAML of the accepted form, or empty.
    """
    try:
        text = _decode(content, what)
        document = parse_yaml(text, what, is_text, MAX_VALUES)
    except RefusedYamlError as error:
        raise InvalidSpecError(path, error.faults) from error
    if document.data is None and not document.texts:
        message = "the file is empty. Begin with `version: 1`."
        raise InvalidSpecError(path, [Fault(*document.values[()], message)])
    return document


def _decode(content: bytes, what: str) -> str:
    """Decodes UTF-8, with or without a byte order mark."""
    if len(content) > MAX_BYTES:
        _refuse("", f"{what} has at most {MAX_BYTES} bytes. Received: more.")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        byte = content[error.start]
        _refuse(
            before, f"{what} is UTF-8 text. Received: the byte 0x{byte:02x}."
        )
    if bad := _FORBIDDEN.search(text):
        _refuse(
            text[: bad.start()],
            "control characters and byte order marks inside the text are not "
            f"accepted. Received: U+{ord(bad.group()):04X}.",
        )
    return text


def _refuse(before: str, message: str):
    """Refuses a file for what comes behind the text given."""
    last_line = before.rpartition("\n")[2]
    line, column = before.count("\n") + 1, len(last_line) + 1
    raise RefusedYamlError([Fault(line, column, message)])


def text_faults(document: Document) -> Iterator[Fault]:
    """Yields a fault for every text with line breaks or control characters."""
    for path, text in document.texts.items():
        if any(unicodedata.category(char) == "Cc" for char in text):
            yield Fault(
                *document.values[path],
                "text is one line without control characters. Received: "
                f"{shorten(text)}.",
            )
