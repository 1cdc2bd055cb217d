"""Bytes of a spec file to text, within limits."""

import codecs
import re

from kmod.spec.faults import Fault
from kmod.spec.faults import InvalidSpecError

MAX_BYTES = 2**20

# What YAML allows, less a byte order mark and exotic line breaks.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ufefe\uff00-\ufffd"
    "\U00010000-\U0010ffff]"
)


def decode(content: bytes, filename: str) -> str:
    """Decodes the bytes of a spec file.

    Args:
        content: UTF-8 of at most 1 MiB, with or without a byte order mark.
        filename: Name to show in errors.

    Raises:
        InvalidSpecError: If the bytes are not text of that form.
    """
    if len(content) > MAX_BYTES:
        message = f"a spec has at most {MAX_BYTES} bytes. Received: more."
        raise InvalidSpecError(filename, [Fault(1, 1, message)])
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        byte = content[error.start]
        message = f"a spec is UTF-8 text. Received: the byte 0x{byte:02x}."
        raise InvalidSpecError(filename, [_fault_after(before, message)])
    if bad := _FORBIDDEN.search(text):
        message = (
            "control characters and byte order marks inside the text are not "
            f"accepted. Received: U+{ord(bad.group()):04X}."
        )
        before = text[: bad.start()]
        raise InvalidSpecError(filename, [_fault_after(before, message)])
    return text


def _fault_after(text: str, message: str) -> Fault:
    last_line = text.rpartition("\n")[2]
    return Fault(text.count("\n") + 1, len(last_line) + 1, message)
