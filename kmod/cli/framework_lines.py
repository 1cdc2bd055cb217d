"""Keeps lines of TensorFlow for its developers off the terminal.

It writes them in C++ to file descriptor 2, some while it is imported, before it
looks at TF_CPP_MIN_LOG_LEVEL, and some without ever looking at it. So that
descriptor becomes a pipe to a process, this file run as a script, that passes
on all other lines. As a process of its own it still does so when this one
crashes, and started ones inherit the pipe.
"""

import atexit
import contextlib
import os
import re
import subprocess
import sys

_STDERR = 2
_FRAMEWORKS = ("tensorflow", "ai_edge_litert")
# Information, warnings and errors; fatal errors are always shown.
_SEVERITIES = "IWE"
_MAX_WAIT = 1.0  # Seconds, where a started process keeps the pipe open.


def hide_framework_lines() -> None:
    """Hides them from now on, as far as TF_CPP_MIN_LOG_LEVEL says.

    Nothing is started before a framework is imported. Python's own messages go
    to the terminal directly.
    """
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "")
    hidden = _SEVERITIES[: int(level)] if level.isdecimal() else ""
    if not hidden or sys.stderr is not sys.__stderr__:
        return
    terminal = os.dup(_STDERR)
    sys.stderr = os.fdopen(
        terminal,
        "w",
        buffering=1,
        encoding=sys.stderr.encoding,
        errors=sys.stderr.errors,
    )
    sys.meta_path.insert(0, _Watch(terminal, hidden))


class _Watch:
    """Starts the filter when a framework is first looked for."""

    def __init__(self, terminal, hidden):
        self._terminal = terminal
        self._hidden = hidden

    def find_spec(self, name, path=None, target=None):
        if name in _FRAMEWORKS:
            sys.meta_path.remove(self)
            self._start()
        return None  # To import it is left to the others.

    def _start(self):
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self._hidden],
            stdin=subprocess.PIPE,
            stdout=self._terminal,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not meant for it.
        )
        os.dup2(process.stdin.fileno(), _STDERR)
        process.stdin.close()
        atexit.register(self._stop, process)

    def _stop(self, process):
        os.dup2(self._terminal, _STDERR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_MAX_WAIT)


def _pass_on(hidden):
    """Copies lines from stdin to stdout, without those of the frameworks."""
    lines = re.compile(
        rf"[{hidden}]\d{{4}} \d\d:\d\d:\d+"
        "|WARNING: All log messages before absl::InitializeLog"
        "|INFO: (Created|Initialized) TensorFlow Lite"
        r"|fully_quantize: \d, inference_type: ".encode()
    )
    for line in sys.stdin.buffer:
        if not lines.match(line):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    _pass_on(sys.argv[1])
