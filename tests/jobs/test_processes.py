import multiprocessing
import os
import sys
import time

import pytest

from kmod.errors import UsageError
from kmod.jobs.processes import ProcessExecutor
from kmod.jobs.processes import available_memory
from kmod.jobs.processes import gpu_ids
from kmod.jobs.schedule import Schedule


def run_all(executor, tasks):
    try:
        return Schedule(tasks, executor).run()
    finally:
        executor.close()
        assert not multiprocessing.active_children()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_a_worker_does_many_tasks_with_the_threads_given(work, task, tmp_path):
    tasks = [task(name, out=tmp_path / "new") for name in "ab"]
    outcomes = run_all(ProcessExecutor(work.threads, 1, threads=3), tasks)
    assert [each.found["threads"] for each in outcomes] == [3, 3]
    assert len({each.found["place"] for each in outcomes}) == 1
    assert outcomes[0].found["peak_bytes"] > 2**20
    assert f":{os.getpid()}" not in outcomes[0].found["place"]


def test_a_killed_worker_is_replaced(work, task):
    (outcome,) = run_all(ProcessExecutor(work.die_once, 1, 1), [task("a")])
    assert (outcome.state, outcome.losses) == ("made", 1)


def test_what_fails_says_why(work, task):
    (outcome,) = run_all(ProcessExecutor(work.fail, 1, 1), [task("a")])
    assert outcome.fault == "unexpected ValueError: no luck"
    assert "in fail" in outcome.found["traceback"]


def test_nothing_half_written_is_left(work, task, tmp_path):
    executor = ProcessExecutor(work.write_for_ever, 1, 1)
    executor.start(task("a"), 1)
    while not (tmp_path / "begun").exists():
        time.sleep(0.1)
    assert list(tmp_path.glob(".result.tmp-*"))
    executor.close()
    assert not list(tmp_path.glob("*result*"))


def test_tasks_have_gpus_of_their_own_and_fresh_workers(
    work, task, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    executor = ProcessExecutor(work.echo, 3, 1, gpus=1)
    tasks = [task(name, out=tmp_path / "new") for name in "abc"]
    executor.start(tasks[0], 1)
    executor.start(tasks[1], 1)
    assert not executor.has_room(1)
    reports = [executor.wait(), executor.wait()]
    assert {each.found["gpus"] for each in reports} == {"4", "7"}
    executor.start(tasks[2], 1)
    reports.append(executor.wait())
    assert len({each.found["place"] for each in reports}) == 3
    executor.close()


def test_more_gpus_than_there_are_are_refused(work, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UsageError, match="`gpus` must be at most .* 1"):
        ProcessExecutor(work.echo, 1, 1, gpus=2)


def test_gpus_are_counted_without_tensorflow(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_ids() == ["0", "1"]


def test_tasks_at_a_time_are_bounded_by_memory(work):
    executor = ProcessExecutor(work.echo, 8, 1)
    free = available_memory()
    executor._busy = {"first": ("a", free // 2)}
    assert executor.has_room(free // 4)
    assert not executor.has_room(free)
    executor._busy = {}
    assert executor.has_room(2 * free)  # One task runs in any case.
