"""Single files that kmod wrote, known by a digest of their own text."""

import hashlib
import re
from pathlib import Path

from kmod.errors import UsageError

_SEAL = re.compile(r"# Written by kmod, unchanged while this is (\w+)\n\Z")
_LENGTH = 16  # Hexadecimal digits; it guards against accidents, not forgery.


def seal(text: str) -> str:
    """Puts a comment behind a YAML text that tells whether it changed.

    Args:
        text: The text, with a line break at its end.

    Returns:
        The text with its seal, for `check_output_file`.
    """
    return f"{text}# Written by kmod, unchanged while this is {_digest(text)}\n"


def check_output_file(path: str | Path, overwrite: bool = False) -> None:
    """Refuses an output file if what is there would be lost.

    Args:
        path: File to write.
        overwrite: Whether a sealed file may be replaced that nobody has
            edited.

    Raises:
        UsageError: If something is at `path` that may not be replaced.
    """
    path = Path(path)
    if not path.exists():
        return
    if not overwrite:
        raise UsageError(
            f"The output file must be new. Received: '{path}', which is "
            "there. Choose another name, or allow what kmod wrote there to be "
            "replaced with `overwrite=True` (`--overwrite`)."
        )
    if not path.is_file() or not _is_sealed(path):
        raise UsageError(
            "Only a file that kmod wrote and nobody edited can be "
            f"overwritten. Received: '{path}', which is another. Choose "
            "another name, or remove the file yourself."
        )


def _is_sealed(path):
    text = path.read_bytes().decode("utf-8", errors="replace")
    match = _SEAL.search(text)
    return match is not None and match[1] == _digest(text[: match.start()])


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
