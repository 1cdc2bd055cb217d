"""Runs tasks by an executor: in order, within memory, again if they fail."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Literal
from typing import Protocol

from kmod.errors import KmodError
from kmod.jobs.tasks import Task
from kmod.jobs.tasks import is_done

MAX_FAULTS = 2
MAX_LOSSES = 3
# What a task is taken to need until the first of its kind has ended.
FIRST_GUESS = 2 * 2**30
HEADROOM = 1.2  # Tasks are not all alike.


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a task that was started.

    Attributes:
        name: Name of the task.
        found: What the worker said of it; empty if the worker died.
        loss: How the worker died, if it did.
    """

    name: str
    found: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: str | None = None


class Executor(Protocol):
    """What runs tasks: processes of this machine or a cluster."""

    def has_room(self, need: int) -> bool:
        """Tells whether a task may start that needs so many bytes."""

    def start(self, task: Task, need: int) -> None:
        """Starts a task and returns at once."""

    def wait(self) -> Report | None:
        """Waits for a task that was started to end.

        Returns:
            The report; `None` if none has ended for a while.
        """

    def close(self) -> None:
        """Ends all workers, and what they are at."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        task: The task.
        state: `made`; `kept`, if its result was there; `failed`; or `left
            out`, if it needed one that failed.
        tries: How many times it was started.
        losses: How many of these a worker died in.
        found: What the worker of the last try said of it.
        fault: Why it failed or was left out.
    """

    task: Task
    state: Literal["made", "kept", "failed", "left out"]
    tries: int = 0
    losses: int = 0
    found: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fault: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether the result is there."""
        return self.state in ("made", "kept")


class Schedule:
    """The tasks of a call: which wait, which run, and how others ended.

    Args:
        tasks: The tasks, those that others need first. What they need and is
            not among them counts as there.
        executor: What runs them.
        notify: Called with a task when it starts and with an `Outcome` when
            it has ended.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        executor: Executor,
        notify: Callable[[Task | Outcome], None] = lambda event: None,
    ):
        self.outcomes = {}
        self._waiting = {task.name: task for task in tasks}
        self._running = {}
        self._tries = {task.name: 0 for task in tasks}
        self._losses = dict(self._tries)
        self._executor = executor
        self._notify = notify
        self._needs = {}

    def run(self) -> list[Outcome]:
        """Runs all tasks to their end, whatever becomes of some of them."""
        order = list(self._waiting)
        while self._waiting or self._running:
            self._start_ready()
            if self._running and (report := self._executor.wait()):
                self._take(report)
        return [self.outcomes[name] for name in order]

    def need(self, task: Task) -> int:
        """Returns how many bytes a task is taken to need."""
        return self._needs.get(task.kind, FIRST_GUESS)

    def _start_ready(self):
        for task in list(self._waiting.values()):
            known = self._tries.keys() & task.needs
            needed = [self.outcomes.get(name) for name in known]
            bad = [each for each in needed if each and not each.is_good]
            if bad:
                name = bad[0].task.name
                self._end(task, "left out", fault=f"it needs '{name}'")
            elif all(needed) and self._executor.has_room(self.need(task)):
                self._start(task)

    def _start(self, task):
        try:
            is_there = is_done(task)
        except (KmodError, OSError) as error:
            self._end(task, "failed", fault=str(error))
            return
        if is_there:
            self._end(task, "kept" if not self._tries[task.name] else "made")
            return
        del self._waiting[task.name]
        self._tries[task.name] += 1
        self._running[task.name] = task
        self._notify(task)
        self._executor.start(task, self.need(task))

    def _take(self, report):
        task = self._running.pop(report.name)
        found, fault = report.found, report.loss
        self._losses[task.name] += fault is not None
        losses = self._losses[task.name]
        faults = self._tries[task.name] - losses
        fault = fault or found.get("fault")
        if fault is None:
            peak = int(HEADROOM * found["peak_bytes"]) or FIRST_GUESS
            self._needs[task.kind] = max(peak, self._needs.get(task.kind, 0))
            self._end(task, "made", found)
        elif (
            found.get("is_final")
            or losses >= MAX_LOSSES
            or faults >= MAX_FAULTS
        ):
            self._end(task, "failed", found, fault)
        else:
            self._waiting[task.name] = task

    def _end(self, task, state, found=None, fault=None):
        self._waiting.pop(task.name, None)
        name = task.name
        self.outcomes[name] = Outcome(
            task,
            state,
            self._tries[name],
            self._losses[name],
            found or {},
            fault,
        )
        self._notify(self.outcomes[name])
