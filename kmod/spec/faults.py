"""Faults of a spec, each with its place in the file."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import KmodError
from kmod.errors import SpecError

MAX_FAULTS = 50
_MAX_SHOWN = 60


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
    """What is wrong at one place, counted from 1 as editors do."""

    line: int
    column: int
    message: str

    def located(self, path: str | Path) -> str:
        """Formats the fault as `file:line:column: message`."""
        return f"{path}:{self.line}:{self.column}: {self.message}"


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


def shorten(text: str) -> str:
    """Quotes a text from the file, cut to what a message can hold."""
    if len(text) > _MAX_SHOWN:
        text = f"{text[:_MAX_SHOWN]}…"
    return repr(text)
