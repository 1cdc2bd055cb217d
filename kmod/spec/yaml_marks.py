"""YAML that remembers where every key and value stood in the file."""

import dataclasses
import math
import unicodedata
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import yaml

from kmod.spec.faults import Fault
from kmod.spec.faults import InvalidSpecError
from kmod.spec.faults import shorten
from kmod.spec.text import decode

MAX_DEPTH = 32
MAX_VALUES = 25_000

KeyPath = tuple[str | int, ...]
Place = tuple[int, int]  # Line and column, counted from 1.

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEPTH_MESSAGE = f"a spec has at most {MAX_DEPTH} levels. Received: more."
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")
)


@dataclasses.dataclass
class Document:
    """A YAML document as plain data and the places of its parts.

    Paths are tuples of keys and indices: `("classes", 0, "name")`.

    Attributes:
        data: The document's value.
        keys: Where the key of each mapping entry stands, by path.
        values: Where each value begins, by path; `()` is the whole document.
        texts: The text of every scalar as it stands in the file, by path.
        faults: Faults that did not stop the reading, such as repeated keys.
    """

    data: Any = None
    keys: dict[KeyPath, Place] = dataclasses.field(default_factory=dict)
    values: dict[KeyPath, Place] = dataclasses.field(default_factory=dict)
    texts: dict[KeyPath, str] = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)

    def find_texts(self, *pattern) -> Iterator[tuple[KeyPath, str]]:
        """Yields path and text of every string whose path fits; see `find`."""
        return self.find(str, *pattern)

    def find(self, kind: type, *pattern) -> Iterator[tuple[KeyPath, Any]]:
        """Yields path and value of every value whose path fits.

        Args:
            kind: What the value must be: `str`, `list` or `dict`.
            *pattern: The keys of the path; `...` fits every key and index.
        """
        found = [((), self.data)]
        for step in pattern:
            found = [
                ((*path, key), child)
                for path, parent in found
                for key, child in _children(parent)
                if step in (..., key)
            ]
        return (item for item in found if isinstance(item[1], kind))


def parse(
    content: bytes, filename: str, is_text: Callable[[KeyPath], bool]
) -> Document:
    """Parses untrusted YAML into plain data with places.

    Args:
        content: One UTF-8 document of at most 1 MiB, 32 levels and 25,000
            values, without anchors, aliases, merge keys and tags.
        filename: Name to show in errors.
        is_text: Tells of a path whether its scalar is text as it is written,
            so that `no` and `010` stay what they are.

    Returns:
        The document. A number that is not finite stays text.

    Raises:
        InvalidSpecError: If the content is not YAML of that form.
    """
    text = decode(content, filename)
    reader = _Reader(text, filename, is_text)
    try:
        reader.read_document()
    except yaml.MarkedYAMLError as error:
        # libyaml looks far ahead for a limit of its own.
        if "nesting depth" in error.problem:
            reader.fail(_too_deep(text), _DEPTH_MESSAGE)
        reader.fail(error.problem_mark, _problem(error, text))
    return reader.document


def _too_deep(text):
    """Finds the mark where a text exceeds the depth, without libyaml."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            return event.start_mark


def _problem(error: yaml.MarkedYAMLError, text: str) -> str:
    context = f"{error.context}: " if error.context else ""
    rest = text.splitlines()[error.problem_mark.line :]
    tab = bool(rest) and rest[0].lstrip(" ").startswith("\t")
    hint = " Indent with spaces, not with tabs." if tab else ""
    return f"this is not YAML: {context}{error.problem}.{hint}"


def _children(parent) -> list[tuple[str | int, Any]]:
    if isinstance(parent, dict):
        return list(parent.items())
    return list(enumerate(parent)) if isinstance(parent, list) else []


class _Reader:
    """Builds a `Document` from parser events, before any object exists."""

    def __init__(self, text, filename, is_text):
        self.document = Document()
        self._filename = filename
        self._is_text = is_text
        self._events = yaml.parse(text, Loader=_PARSER)
        self._scalars = yaml.SafeLoader("")

    def read_document(self):
        next(self._events)  # The start of the stream.
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            message = "the file is empty. Begin with `version: 1`."
            self.fail(start.start_mark, message)
        self.document.data = self._node(next(self._events), ())
        next(self._events)  # The end of the document.
        end = next(self._events)
        if not isinstance(end, yaml.StreamEndEvent):
            message = "a spec is one YAML document. Received: a second one."
            self.fail(end.start_mark, message)

    def fail(self, mark, message):
        faults = [*self.document.faults, Fault(*_place(mark), message)]
        raise InvalidSpecError(self._filename, faults)

    def _node(self, event, path):
        self._refuse_features(event)
        self.document.values[path] = _place(event.start_mark)
        if len(self.document.values) > MAX_VALUES:
            self.fail(
                event.start_mark,
                f"a spec has at most {MAX_VALUES} values, enough for 5000 "
                "classes. Received: more.",
            )
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            self.fail(event.start_mark, _DEPTH_MESSAGE)
        if isinstance(event, yaml.SequenceStartEvent):
            return [
                self._node(item, (*path, index))
                for index, item in enumerate(self._until(yaml.SequenceEndEvent))
            ]
        return self._mapping(path)

    def _until(self, end):
        while not isinstance(event := next(self._events), end):
            yield event

    def _mapping(self, path):
        mapping = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self._key(event)
            if key in mapping:
                message = f"the key {shorten(key)} appears twice. Keep one."
                self._note(event, message)
            self.document.keys[(*path, key)] = _place(event.start_mark)
            mapping[key] = self._node(next(self._events), (*path, key))
        return mapping

    def _key(self, event):
        self._refuse_features(event)
        if not isinstance(event, yaml.ScalarEvent):
            self.fail(
                event.start_mark, "a key is plain text, not a list or map."
            )
        if event.value == "<<":
            message = "merge keys (<<) are not accepted. Write the keys out."
            self.fail(event.start_mark, message)
        return event.value

    def _refuse_features(self, event):
        if event.anchor is not None:  # Aliases have one, too.
            message = (
                "anchors and aliases (& and *) are not accepted. Write the "
                "value out, or quote it if it is text."
            )
            self.fail(event.start_mark, message)
        if event.tag is not None:
            message = (
                "tags (!) are not accepted. Received: "
                f"{shorten(event.tag)}. Leave it out, or quote the text."
            )
            self.fail(event.start_mark, message)

    def _scalar(self, event, path):
        text = self.document.texts[path] = event.value
        if any(unicodedata.category(char) == "Cc" for char in text):
            self._note(
                event,
                "text is one line without control characters. "
                f"Received: {shorten(text)}.",
            )
        is_plain = event.implicit[0]
        if is_plain and not self._is_text(path):
            return self._resolve(event)
        return text

    def _resolve(self, event):
        tag = self._scalars.resolve(
            yaml.ScalarNode, event.value, event.implicit
        )
        if tag not in _PLAIN_TAGS:
            return event.value
        node = yaml.ScalarNode(tag, event.value)
        try:
            value = self._scalars.construct_object(node)
        except ValueError:  # Too many digits for an integer.
            return event.value
        is_infinite = isinstance(value, float) and not math.isfinite(value)
        return event.value if is_infinite else value

    def _note(self, event, message):
        fault = Fault(*_place(event.start_mark), message)
        self.document.faults.append(fault)


def _place(mark) -> Place:
    return mark.line + 1, mark.column + 1
