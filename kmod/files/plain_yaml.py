"""YAML as kmod reads and writes it: plain data, without surprises.

Specs, manifests and locks are read here. All may come from strangers, so what
costs much or does more than say data is refused before any object exists.
"""

import dataclasses
import stat
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.files.digests import bytes_digest

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32
MAX_DIGITS = 100
_MAX_SHOWN = 60

KeyPath = tuple[str | int, ...]
Place = tuple[int, int]  # Line and column, counted from 1.

# The C versions need libyaml, which most builds of PyYAML bring.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_CONSTRUCTORS = {
    f"tag:yaml.org,2002:{name}": getattr(
        yaml.SafeLoader, f"construct_yaml_{name}"
    )
    for name in ("null", "bool", "int", "float")
}


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
    """What is wrong at one place, counted from 1 as editors do."""

    line: int
    column: int
    message: str

    def located(self, path: str | Path) -> str:
        """Formats the fault as `file:line:column: message`."""
        return f"{path}:{self.line}:{self.column}: {self.message}"


class RefusedYamlError(ValueError):
    """YAML that is not read, with its `faults` in the order of the file."""

    def __init__(self, faults: list[Fault]):
        self.faults = faults
        super().__init__(
            "; ".join(
                f"line {each.line}, column {each.column}: {each.message}"
                for each in faults
            )
        )


@dataclasses.dataclass
class Document:
    """A YAML document as plain data and the places of its parts.

    Paths are tuples of keys and indices: `("classes", 0, "name")`.

    Attributes:
        data: The document's value; `None` if the file is empty.
        keys: Where the key of each mapping entry stands, by path.
        values: Where each value begins, by path; `()` is the whole document.
        texts: The text of every scalar as it stands in the file, by path.
        faults: Keys that are repeated, which does not stop the reading.
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


def parse_yaml(
    text: str,
    what: str = "a manifest",
    is_text: Callable[[KeyPath, Any], bool] = lambda path, value: False,
    max_values: int | None = None,
) -> Document:
    """Parses untrusted YAML into plain data with places.

    Args:
        text: One document of at most 32 levels, without anchors, aliases,
            merge keys and tags.
        what: What the text is, to say it in errors.
        is_text: Tells of a path and the value there whether it is text as it
            is written, so that `no` and `010` stay what they are.
        max_values: Largest number of values, for a caller to whom a value
            costs more than its reading.

    Returns:
        The document. Keys are text as they are written, and so are dates and
        numbers of too many digits.

    Raises:
        RefusedYamlError: If the text is not YAML of that form.
    """
    reader = _Reader(text, what, is_text, max_values)
    try:
        reader.read_document()
    except yaml.MarkedYAMLError as error:
        # libyaml looks far ahead for a limit of its own.
        if "nesting depth" in error.problem:
            reader.fail_of_depth(_too_deep(text))
        reader.fail(error.problem_mark, _problem(error, text))
    return reader.document


def read_yaml(path: Path, digest: str | None = None) -> Any:
    """Reads the plain data in a YAML file that kmod wrote.

    Args:
        path: File of at most 8 MiB.
        digest: Digest of the bytes that are read. Defaults to any.

    Raises:
        ArtifactError: If there is no such file.
        IntegrityError: If it is too large, has another digest, is not UTF-8,
            or not what `parse_yaml` reads without a fault.
    """
    try:
        content = _read_bytes(path)
        if digest not in (None, bytes_digest(content)):
            raise ValueError(
                "its digest is not the one in the store's manifest"
            )
        document = parse_yaml(content.decode("utf-8"))
        if document.faults:
            raise RefusedYamlError(document.faults)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise broken(path, reason) from error
    return document.data


def to_yaml(data: Any) -> str:
    """Returns plain data as YAML that `read_yaml` reads back."""
    return yaml.dump(
        data,
        Dumper=_DUMPER,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
    )


def shorten(text: str) -> str:
    """Quotes a text from a file, cut to what a message can hold."""
    if len(text) > _MAX_SHOWN:
        text = f"{text[:_MAX_SHOWN]}…"
    return repr(text)


def broken(path: Path, reason: str) -> IntegrityError:
    """Returns the error for a file of an artifact that was damaged or edited.

    Args:
        path: The file.
        reason: What is wrong with it, without a full stop.
    """
    return IntegrityError(
        f"'{path}' is not as kmod wrote it: {reason}. Copy the artifact "
        "again, or make it again."
    )


def _read_bytes(path):
    try:
        status = path.lstat()
    except OSError as error:
        raise ArtifactError(
            f"'{path}' can not be read: {error.strerror}. Give the directory "
            "that kmod wrote, whole."
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a link or special file")
    if status.st_size > MAX_BYTES:
        raise ValueError(
            f"{status.st_size} bytes are more than the {MAX_BYTES} allowed"
        )
    return path.read_bytes()


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

    def __init__(self, text, what, is_text, max_values):
        self.document = Document()
        self._what = what
        self._is_text = is_text
        self._max_values = max_values
        self._events = yaml.parse(text, Loader=_PARSER)
        self._scalars = yaml.SafeLoader("")

    def read_document(self):
        next(self._events)  # The start of the stream.
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            self.document.values[()] = _place(start.start_mark)
            return
        self.document.data = self._node(next(self._events), ())
        next(self._events)  # The end of the document.
        end = next(self._events)
        if not isinstance(end, yaml.StreamEndEvent):
            self.fail(
                end.start_mark,
                f"{self._what} is one YAML document. Received: a second one.",
            )

    def fail(self, mark, message):
        fault = Fault(*_place(mark), message)
        raise RefusedYamlError([*self.document.faults, fault])

    def fail_of_depth(self, mark):
        self.fail(
            mark,
            f"{self._what} has at most {MAX_DEPTH} levels. Received: more.",
        )

    def _node(self, event, path):
        self._refuse_features(event)
        self.document.values[path] = _place(event.start_mark)
        if self._max_values and len(self.document.values) > self._max_values:
            self.fail(
                event.start_mark,
                f"{self._what} has at most {self._max_values} values. "
                "Received: more.",
            )
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            self.fail_of_depth(event.start_mark)
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
                fault = Fault(*_place(event.start_mark), message)
                self.document.faults.append(fault)
            self.document.keys[(*path, key)] = _place(event.start_mark)
            mapping[key] = self._node(next(self._events), (*path, key))
        return mapping

    def _key(self, event):
        self._refuse_features(event)
        if not isinstance(event, yaml.ScalarEvent):
            self.fail(
                event.start_mark, "a key is plain text, not a list or map."
            )
        if event.value == "<<" and event.implicit[0]:
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
        if not event.implicit[0] or _is_no_number(text):
            return text
        tag = self._scalars.resolve(yaml.ScalarNode, text, event.implicit)
        construct = _CONSTRUCTORS.get(tag)
        if construct is None:
            return text
        try:
            value = construct(self._scalars, yaml.ScalarNode(tag, text))
        except ValueError:  # Too many digits for an integer.
            return text
        return text if self._is_text(path, value) else value


def _is_no_number(text):
    """Tells of texts that YAML 1.1 alone, or too many digits, make numbers.

    To compute `1:1:1` to the base of 60, or huge numbers, can take minutes.
    """
    return ":" in text or len(text) > MAX_DIGITS


def _place(mark) -> Place:
    return mark.line + 1, mark.column + 1
