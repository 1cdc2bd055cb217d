"""What all commands print with: data to stdout, messages to stderr."""

import contextlib
import json
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Literal
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.progress import track as rich_track
from rich.table import Table

Item = TypeVar("Item")
Verbosity = Literal["quiet", "normal", "verbose"]

_PLAIN = {"markup": False, "highlight": False, "emoji": False}
_PIPE_WIDTH = 200
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_AROUND = 60
_OUT = Console(**_PLAIN)
_ERR = Console(stderr=True, **_PLAIN)
_verbosity: Verbosity = "normal"


def set_verbosity(verbosity: Verbosity) -> None:
    """Chooses how much is said beside results, warnings and errors.

    Args:
        verbosity: `"quiet"` leaves out progress and notes, `"verbose"` shows
            progress where no person sees it, too, such as in a log.
    """
    global _verbosity
    _verbosity = verbosity


def is_interactive() -> bool:
    """Tells whether a person sees the messages on a terminal."""
    return _ERR.is_terminal


def print_message(text: str, style: str | None = None) -> None:
    """Prints a message for people, to stderr.

    Args:
        text: Message, printed as it is.
        style: Rich style, such as `"red"`; seen on terminals only.
    """
    _ERR.print(_shown(text), style=style, soft_wrap=True)


def print_note(text: str) -> None:
    """Prints what one need not read to go on, to stderr, unless quiet."""
    if _verbosity != "quiet":
        print_message(text)


def print_data(text: str) -> None:
    """Prints one line of a command's result, to stdout."""
    _OUT.print(_shown(text), soft_wrap=True)


def print_json(data: Any) -> None:
    """Prints plain data as indented JSON, to stdout."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    # JSON escapes all other control characters itself.
    escaped = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    print_data(escaped)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = ""
) -> None:
    """Prints a table, to stdout.

    Args:
        columns: Column headings.
        rows: One value for each column; numbers are set flush right.
        title: Line above the table. Defaults to none.
    """
    rows = [list(row) for row in rows]
    table = Table(title=title or None, title_justify="left", box=None)
    for index, heading in enumerate(columns):
        is_number = all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(heading, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_shown(str(value)) for value in row))
    _OUT.print(table, width=None if _OUT.is_terminal else _PIPE_WIDTH)


def _shown(text):
    """Replaces control characters, which may steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def point_at(line: str, column: int) -> str:
    """Formats a source line with a caret under one of its columns.

    Args:
        line: The line; what does not fit around the caret is cut off.
        column: Counted from 1.
    """
    shown = "".join(char if char.isprintable() else "�" for char in line)
    before = shown[: column - 1][-_AROUND:]
    after = shown[column - 1 :][:_AROUND]
    return f"    {before}{after}\n    {' ' * cell_len(before)}^"


def track(items: Sequence[Item], description: str) -> Iterator[Item]:
    """Iterates with a progress bar, if a person sees it.

    Args:
        items: What to iterate over.
        description: Text in front of the bar.
    """
    _say_in_log(description)
    return rich_track(
        items,
        description,
        console=_ERR,
        disable=not _is_progress_drawn(),
        transient=True,
    )


def status(description: str) -> contextlib.AbstractContextManager:
    """Shows that a step is running while in the context, if a person sees it.

    Args:
        description: Text beside the spinner.
    """
    _say_in_log(description)
    if _is_progress_drawn():
        return _ERR.status(description)
    return contextlib.nullcontext()


def training_verbosity() -> int | Literal["auto"]:
    """Returns how Keras is to show the progress of a training.

    Returns:
        What `verbose` of `fit` takes: a bar for a person, which has colours
        unless NO_COLOR is set, and a line for each epoch in a log.
    """
    if _is_progress_drawn():
        return 2 if _ERR.no_color else "auto"
    return 2 if _verbosity == "verbose" else 0


def _is_progress_drawn():
    return is_interactive() and _verbosity != "quiet"


def _say_in_log(description):
    if _verbosity == "verbose" and not is_interactive():
        print_message(f"{description} …")


class ProgressBar:
    """A bar for steps that end in any order, if a person sees it.

    Use it as a context manager; messages printed meanwhile stand above it.

    Args:
        description: Text in front of the bar.
        total: Number of steps.
    """

    def __init__(self, description: str, total: int):
        self._progress = Progress(
            console=_ERR, disable=not _is_progress_drawn(), transient=True
        )
        self._bar = self._progress.add_task(description, total=total)

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def show(self, description: str, num_done: int) -> None:
        """Moves the bar.

        Args:
            description: Text in front of it.
            num_done: Number of steps that have ended.
        """
        text = escape(_shown(description))
        self._progress.update(self._bar, description=text, completed=num_done)
