"""Names of files and models made from any text, such as a class's name."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

MAX_LENGTH = 60
MAX_NAME = 200  # That of a class in a spec.
# A manifest of more is larger than what is read.
MAX_CLASSES = 10_000
# Windows opens a device instead of a file of such a name.
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")
# What TensorFlow takes for the name of a scope, and Keras for that of a layer.
KERAS_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.-]*")


def slug(name: str) -> str:
    """Turns any text into a name that is safe on every file system.

    Args:
        name: Any text.

    Returns:
        1 to 60 lower-case ASCII letters, digits and inner hyphens. Different
        texts may share one; see `slugs`.

    Example:

    >>> slug("T-shirt/top")
    't-shirt-top'
    """
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore")
    words = re.sub(r"[^a-z0-9]+", "-", text.decode().lower()).strip("-")
    words = words[:MAX_LENGTH].rstrip("-")
    if not words:
        data = name.encode("utf-8", "surrogatepass")
        return f"name-{hashlib.sha256(data).hexdigest()[:8]}"
    return f"name-{words}" if DEVICE.fullmatch(words) else words


def keras_name(text: str) -> str:
    """Returns a name that TensorFlow can run a model by.

    Args:
        text: What the model is called, such as the name of its file.

    Returns:
        The text, if it is such a name, else its slug.
    """
    return text if KERAS_NAME.fullmatch(text) else slug(text)


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Gives every name a slug of its own, numbering those that collide.

    Args:
        names: Different texts. Their order decides who gets which number.

    Returns:
        Slug by name.

    Example:

    >>> slugs(["cat", "Cat", "dog"])
    {'cat': 'cat', 'Cat': 'cat-2', 'dog': 'dog'}
    """
    chosen = {}
    taken = set()
    for name in names:
        candidate, number = slug(name), 1
        while candidate in taken:
            number += 1
            candidate = f"{slug(name)}-{number}"
        taken.add(candidate)
        chosen[name] = candidate
    return chosen


def unusable_names(names: Iterable[str]) -> list[str]:
    """Lists the names, quoted and cut, that no spec can tell from others.

    Args:
        names: Different texts.

    Returns:
        Those of more than 200 characters, with a control character, or of the
        same letters as one before, composed in another way.
    """
    found, spellings = [], set()
    for name in names:
        spelling = unicodedata.normalize("NFC", name)
        has_control = any(unicodedata.category(c) == "Cc" for c in name)
        if len(name) > MAX_NAME or has_control or spelling in spellings:
            found.append(ascii(name[:MAX_LENGTH]))
        spellings.add(spelling)
    return found


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Names folders by their last part, or by their path where these repeat.

    Args:
        paths: Paths of folders.

    Returns:
        Name by path.
    """
    names = {path: Path(path).name for path in paths}
    if len(set(names.values())) == len(names):
        return names
    return {path: path for path in names}
