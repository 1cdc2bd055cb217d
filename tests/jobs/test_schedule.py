import pytest

from kmod.jobs import schedule
from kmod.jobs.schedule import FIRST_GUESS
from kmod.jobs.schedule import MAX_FAULTS
from kmod.jobs.schedule import MAX_LOSSES
from kmod.jobs.schedule import Report
from kmod.jobs.schedule import Schedule

GOOD = {"peak_bytes": 2**30}
BAD = {**GOOD, "fault": "no luck"}


class Fake:
    """Ends tasks in the order of their start, as it was told."""

    def __init__(self, ends=(), room=2):
        self.ends = {name: list(reports) for name, reports in ends}
        self.room, self.running, self.started, self.needs = room, [], [], []

    def has_room(self, need):
        return len(self.running) < self.room

    def start(self, task, need):
        self.running.append(task.name)
        self.started.append(task.name)
        self.needs.append(need)

    def wait(self):
        name = self.running.pop(0)
        found = (self.ends.get(name) or [GOOD]).pop(0)
        if found is None:
            return Report(name, loss="killed")
        return Report(name, found)


@pytest.fixture(autouse=True)
def done(monkeypatch):
    """Names of the tasks whose results are there."""
    names = set()
    monkeypatch.setattr(schedule, "is_done", lambda task: task.name in names)
    return names


def ended(tasks, executor):
    outcomes = Schedule(tasks, executor).run()
    assert [outcome.task for outcome in outcomes] == tasks
    return [(each.state, each.tries) for each in outcomes]


def test_what_needs_another_waits_for_it(task):
    tasks = [task("a"), task("b", needs=["a", "elsewhere"]), task("c")]
    executor = Fake()
    assert ended(tasks, executor) == [("made", 1)] * 3
    assert executor.started == ["a", "c", "b"]


def test_what_is_there_is_kept(task, done):
    done.add("a")
    executor = Fake()
    tasks = [task("a"), task("b", needs=["a"])]
    assert ended(tasks, executor) == [("kept", 0), ("made", 1)]


def test_what_fails_twice_is_left_and_others_go_on(task):
    executor = Fake([("a", [BAD] * MAX_FAULTS)])
    tasks = [task("a"), task("b", needs=["a"]), task("c")]
    states = ended(tasks, executor)
    assert states == [("failed", 2), ("left out", 0), ("made", 1)]


def test_a_failed_task_is_tried_again(task):
    assert ended([task("a")], Fake([("a", [BAD, GOOD])])) == [("made", 2)]


def test_wrong_usage_is_not_tried_again(task):
    executor = Fake([("a", [{**BAD, "is_final": True}])])
    assert ended([task("a")], executor) == [("failed", 1)]


def test_a_dead_worker_is_no_fault_of_the_task(task):
    executor = Fake([("a", [None, BAD, None, GOOD]), ("b", [None] * 9)])
    outcomes = Schedule([task("a"), task("b")], executor).run()
    assert [each.state for each in outcomes] == ["made", "failed"]
    assert [each.losses for each in outcomes] == [2, MAX_LOSSES]
    assert outcomes[1].fault == "killed"


def test_memory_is_that_of_the_first_of_a_kind(task):
    executor = Fake(room=1)
    kinds = ["masks", "part", "part"]
    tasks = [task(f"{i}", kind=kind) for i, kind in enumerate(kinds)]
    Schedule(tasks, executor).run()
    measured = int(schedule.HEADROOM * GOOD["peak_bytes"])
    assert executor.needs == [FIRST_GUESS, FIRST_GUESS, measured]
