"""Prints the faults of a spec, on a terminal with the lines they are in."""

import itertools
from pathlib import Path

from kmod.cli import console
from kmod.spec.faults import LocatedError


def print_faults(error: LocatedError) -> None:
    """Prints one line for every fault, to stderr.

    Args:
        error: The faults. On a terminal, the line of the file and a caret
            under the place follow each of them.
    """
    messages = str(error).splitlines()
    source = _lines(error.path) if console.is_interactive() else []
    shown = error.faults[: len(messages)]
    for message, fault in itertools.zip_longest(messages, shown):
        console.print_message(message, style="bold red")
        if fault is not None and fault.line <= len(source):
            console.print_message(
                console.point_at(source[fault.line - 1], fault.column),
                style="dim",
            )


def _lines(path):
    path = Path(path)
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    return text.split("\n")
