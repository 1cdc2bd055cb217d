"""Faults of a spec: their errors, and in which words the schema's are said.

Rules that the JSON Schema can not express are worded in `rules`.
"""

import difflib
import functools
import math
import re
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path

import yaml

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import KmodError
from kmod.errors import SpecError
from kmod.files.plain_yaml import Document
from kmod.files.plain_yaml import Fault
from kmod.files.plain_yaml import KeyPath
from kmod.files.plain_yaml import shorten
from kmod.files.schemas import validator

MAX_FAULTS = 50
# Words that a slip is compared with, and their length: each takes time.
MAX_COMPARED = 30
MAX_COMPARED_LENGTH = 200
MAX_NUMBER = 1_000_000
SPEC_SCHEMA = "spec/composition.schema.json"
_TYPES = {
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping of keys to values",
    "string": "text",
}
_PATHS = ("path", "model", "out")  # Keys of relative paths.
_PATH_REASONS = (
    (r"~", "`~` is another folder for everybody."),
    (r"/|[A-Za-z]:[/\\]", "An absolute path holds on one machine only."),
    (
        r"[A-Za-z][A-Za-z0-9+.-]*://",
        "Only stores of composition specs are downloaded.",
    ),
    (r"[^/]*:", "Write ./ before a name with a colon, which is no URL then."),
    (r".*\\", "Write / for \\, on Windows, too."),
    (r".*[. ](/|$)", "Windows drops a dot or space at the end of a name."),
)
_RULES = {
    "const": "must be {limit!r}, the only version that this kmod reads",
    "exclusiveMaximum": "must be below {limit}",
    "exclusiveMinimum": "must be above {limit}",
    "maximum": "must be at most {limit}",
    "maxItems": "must have at most {limit} items",
    "maxLength": "must have at most {limit} characters",
    "minimum": "must be at least {limit}",
    "minItems": "must have at least {limit} items",
    "minLength": "must not be empty",
    "minProperties": "must not be empty",
}


class LocatedError(KmodError):
    """One or more faults of a spec file, each with its place.

    The message has one line for every fault, in file order; beyond the first
    50 it only counts them.

    Args:
        path: The spec file, as it shall be shown.
        faults: The faults, in any order.

    Attributes:
        path: The spec file.
        faults: Tuple of all faults, in file order.
    """

    def __init__(self, path: str | Path, faults: Iterable[Fault]):
        self.path = path
        self.faults = tuple(sorted(set(faults)))
        lines = [fault.located(path) for fault in self.faults[:MAX_FAULTS]]
        if len(self.faults) > MAX_FAULTS:
            hidden = len(self.faults) - MAX_FAULTS
            lines.append(f"{path}: {hidden} more faults are not shown.")
        super().__init__("\n".join(lines))


class InvalidSpecError(LocatedError, SpecError):
    """A spec that is not valid, whatever its stores hold."""


class UnfitSourcesError(LocatedError, ArtifactError):
    """A spec whose stores or models are missing or do not fit together."""


class BrokenSourcesError(LocatedError, IntegrityError):
    """A spec one of whose stores is not as it was written."""


def schema_faults(
    document: Document,
    name: str = SPEC_SCHEMA,
    what: str = "the spec",
    keys: tuple[str, ...] | None = None,
) -> Iterator[Fault]:
    """Says in plain words what breaks the JSON Schema, and where.

    Args:
        document: What was read.
        name: Path of the schema in the package.
        what: What the whole document is called.
        keys: Keys of the schema that the document must have, and no others.
            Defaults to what the schema itself asks for.

    Yields:
        A fault for every unknown key and every value that is not accepted.
    """
    for error in validator(name, keys).iter_errors(document.data):
        yield from _explain(error, document, what)


def _explain(error, document, what):
    path = tuple(error.absolute_path)
    value = error.instance
    if _is_said_otherwise(error):
        return
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in value.keys() - known.keys():
            message = f"unknown key {shorten(key)} in {dotted(path, what)}."
            message += f"{did_you_mean(key, known)} {accepted(known)}"
            yield Fault(*document.keys[(*path, key)], message)
    elif "propertyNames" in error.absolute_schema_path:
        message = f"the key {shorten(value)} is not valid. "
        message += error.schema["description"]
        yield Fault(*document.keys[(*path, value)], message)
    else:
        rule = _rule(error, dotted(path, what))
        message = f"{rule} Received: {_received(path, document)}."
        message += _hint(error, document.texts.get(path))
        yield Fault(*document.values[path], message)


def dotted(path: KeyPath, what: str = "the spec") -> str:
    """Formats a path as it is spoken of: `classes[0].name`.

    Args:
        path: Path of a value.
        what: What the whole document is called.
    """
    steps = (f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)
    return f"`{''.join(steps).lstrip('.')}`" if path else what


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Offers the known word that is nearest, if one is near."""
    near = _nearest(word, tuple(known))
    return f" Did you mean {near!r}?" if near else ""


def accepted(words: Collection[str]) -> str:
    """Lists the words that are accepted, the first few of very many."""
    shown = ", ".join(shorten(word) for word in list(words)[:20])
    return f"Accepted: {shown}{', …' if len(words) > 20 else ''}."


@functools.lru_cache  # A long spec may have one slip a thousand times.
def _nearest(word, known):
    if len(word) > MAX_COMPARED_LENGTH:
        return None
    if len(known) > MAX_COMPARED:  # Slips are rarely at both ends.
        ends = word[:1], word[-1:]
        known = [
            each
            for each in known
            if ends[0] == each[:1] or ends[1] == each[-1:]
        ][:MAX_COMPARED]
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def _is_said_otherwise(error):
    """Tells whether another fault of the same mapping says it better.

    That is so if what lacks a key is no mapping at all, or if an unknown key
    looks like the missing one.
    """
    if error.validator not in ("anyOf", "oneOf", "required"):
        return False
    if not isinstance(error.instance, dict):
        return True
    missing = set(_keys(error.schema[error.validator])) - error.instance.keys()
    known = error.schema.get("properties", {})
    return any(
        _nearest(key, tuple(known)) in missing
        for key in error.instance.keys() - known.keys()
    )


def _keys(required):
    """Yields the keys that `required`, or the forms of `oneOf`, ask for."""
    for item in required:
        yield from [item] if isinstance(item, str) else item["required"]


def _rule(error, subject):
    limit = error.validator_value
    if error.validator == "required":
        missing = (f"`{key}`" for key in limit if key not in error.instance)
        return f"{subject} lacks the required {', '.join(missing)}."
    if error.validator == "oneOf":
        forms = " or ".join(form["description"] for form in limit)
        return f"{subject} must have either {forms}, not both."
    if error.validator == "anyOf":
        forms = " or ".join(form["description"] for form in limit)
        return f"{subject} must have {forms}, or both."
    if error.validator == "type":
        types = limit if isinstance(limit, list) else [limit]
        types = ["string"] if "null" in types else types  # For names.
        words = " or ".join(_TYPES[name] for name in types)
        return f"{subject} must be {words}."
    if error.validator == "enum":
        near = did_you_mean(str(error.instance), limit)
        return f"{subject} is not valid.{near} {accepted(limit)}"
    if error.validator == "pattern":
        return f"{subject} is not valid. {error.schema['description']}"
    return f"{subject} {_RULES[error.validator].format(limit=limit)}."


def _received(path, document):
    if path in document.texts:
        return shorten(document.texts[path])
    value = document.data
    for step in path:
        value = value[step]
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the keys {shorten(', '.join(value))}" if value else "no keys"


def _hint(error, text):
    """Names the trap: of paths, or of YAML that took one type for another."""
    if error.validator == "pattern" and error.absolute_path[-1] in _PATHS:
        return next(
            (
                f" {reason}"
                for pattern, reason in _PATH_REASONS
                if re.match(pattern, error.instance)
            ),
            "",
        )
    if error.validator not in ("type", "const", "enum") or text is None:
        return ""
    value = error.instance
    if isinstance(value, bool):
        hint = (
            " YAML reads a bare yes, no, on, off, true or false as a truth "
            "value."
        )
        if error.validator_value in ("array", "integer", "number"):
            return hint
        return f'{hint} If it is text, quote it: "{text}".'
    if error.validator_value == "string":
        return f' YAML does not read this as text. Quote it: "{text}".'
    is_text = isinstance(value, str)
    return _number_hint(value) if is_text and _takes_numbers(error) else ""


def _takes_numbers(error):
    accepted = error.validator_value
    accepted = accepted if isinstance(accepted, list) else [accepted]
    return any(
        each in ("integer", "number") or isinstance(each, int | float)
        for each in accepted
    )


def _number_hint(text):
    try:
        number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return ""
    if not math.isfinite(number) or abs(number) > MAX_NUMBER:
        return f" Numbers lie between -{MAX_NUMBER} and {MAX_NUMBER}."
    plain = yaml.safe_dump(int(number) if number.is_integer() else number)
    return (
        f" YAML reads this as text. Write {plain.split()[0]}, without quotes."
    )
