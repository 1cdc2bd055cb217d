"""`kmod jobs`: makes many stores and models, on processes or machines."""

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any

from kmod.cli import console
from kmod.cli.models import positive_integer

_FAILED = 1
LISTED = 3


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "jobs",
        help="take many models apart, patch and choose, on several processes "
        "or machines",
        description="Makes the module stores and models that a job list asks "
        "for, as `kmod modularize`, `kmod patch` and `kmod choose` do, and "
        "prints a table of them. What is there and was made of the same "
        "models, data and options is kept, so the same call again goes on "
        "where the last one was cut short.",
    )
    parser.add_argument("list", metavar="JOBS.yaml", help="the job list")
    executor = parser.add_mutually_exclusive_group()
    executor.add_argument(
        "--jobs",
        type=positive_integer,
        default=1,
        metavar="N",
        help="tasks at a time, each in a process of its own (default: 1)",
    )
    executor.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a Ray cluster, whose nodes see the same files (default: "
        "that of RAY_ADDRESS, or a new one of this machine; needs the extra "
        "ray)",
    )
    parser.add_argument(
        "--threads",
        type=positive_integer,
        metavar="N",
        help="threads of each task (default: the cores divided by --jobs, 1 "
        "with --ray)",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        metavar="N",
        help="whole GPUs of each task (default: 0; all tasks see all GPUs)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace stores and models that were made of something else",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the table as JSON"
    )
    parser.set_defaults(run=run, how_to_resume=_how_to_resume)


def run(args: argparse.Namespace) -> int:
    from kmod.jobs.job_file import load_jobs
    from kmod.jobs.schedule import Schedule

    jobs = load_jobs(args.list)
    tasks = _checked(args, jobs, _groups(args, jobs))
    with console.ProgressBar("starting", len(tasks)) as bar:
        executor = _executor(args)
        follow = _Follower(bar, jobs)
        try:
            outcomes = Schedule(tasks, executor, follow).run()
        finally:
            executor.close()
    rows = [_row(outcome) for outcome in outcomes]
    if args.json:
        console.print_json(rows)
    else:
        _print(rows)
    if args.debug:
        for outcome in outcomes:
            if "traceback" in outcome.found:
                console.print_message(outcome.found["traceback"])
    failed = [row for row in rows if row["state"] in ("failed", "left out")]
    if failed:
        names = ", ".join(f"'{row['task']}'" for row in failed)
        console.print_message(
            f"kmod: {len(failed)} of {len(rows)} tasks failed or were left "
            f"out: {names}. The same call again tries these only.",
            style="red",
        )
    return _FAILED if failed else 0


def _how_to_resume(args):
    return " The same call goes on from here."


def _groups(args, jobs):
    """Returns the tasks of each job."""
    from kmod.jobs.job_file import Job
    from kmod.jobs.tasks import model_task
    from kmod.jobs.tasks import tasks_of

    groups, makers = [], {}
    for job in jobs:
        if isinstance(job, Job):
            groups.append(tasks_of(job, args.overwrite))
            *_, makers[str(job.out)] = groups[-1]
        else:
            groups.append((model_task(job, makers, args.overwrite),))
    return groups


def _checked(args, jobs, groups):
    """Returns the tasks to run, if nothing stands in their way."""
    from kmod.composition.composition_manifest import list_composition
    from kmod.errors import UsageError
    from kmod.files import check_output
    from kmod.files.plain_yaml import Fault
    from kmod.jobs.tasks import is_done
    from kmod.modules.module_store import list_store
    from kmod.spec.faults import InvalidSpecError

    faults, tasks = [], []
    for job, group in zip(jobs, groups):
        *_, last = group
        try:
            _check_options(last, args)
        except UsageError as error:
            message = re.sub("--([a-z-]+)", _as_key, str(error))
            faults.append(Fault(*job.place, message))
            continue
        if is_done(last):
            _clear(last, job)
            tasks.append(last)
            continue
        listing = list_store if _makes_store(last) else list_composition
        check_output(job.out, args.overwrite, listing)
        tasks += group
    if faults:
        raise InvalidSpecError(args.list, faults)
    return tasks


def _check_options(task, args):
    from kmod.cli.job_tasks import arguments_of
    from kmod.cli.store_making import check_options

    given = arguments_of(task, args.data_dir)
    if _makes_store(task):
        check_options(given)


def _makes_store(task):
    return task.kind in ("store", "merge")


def _clear(task, job):
    """Removes what led to a store, but for what is not ours."""
    from kmod.errors import KmodError
    from kmod.jobs.tasks import clear

    if not _makes_store(task):
        return  # Nothing leads to a model.
    try:
        clear(job)
    except KmodError as error:
        console.print_message(f"kmod: {error}")


def _as_key(option):
    """Returns what a job list calls an option."""
    return option[1].replace("-", "_")


def _executor(args):
    from kmod.cli.job_tasks import TaskRunner
    from kmod.errors import UsageError
    from kmod.jobs.cluster import RayExecutor
    from kmod.jobs.processes import ProcessExecutor

    if args.gpus < 0:
        raise UsageError(
            f"`--gpus` must be at least 0. Received: --gpus {args.gpus}"
        )
    data_dir = args.data_dir and os.path.abspath(args.data_dir)
    runner = TaskRunner(data_dir)
    if args.ray is not None:
        threads = args.threads or 1
        return RayExecutor(runner, args.ray or None, threads, args.gpus)
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    return ProcessExecutor(runner, args.jobs, threads, args.gpus)


class _Follower:
    """Shows what the schedule tells: what runs, and how tasks ended."""

    def __init__(self, bar, jobs):
        self._bar = bar
        self._jobs = {str(job.out): job for job in jobs}
        self._running = {}
        self._num_done = 0

    def __call__(self, event):
        from kmod.jobs.schedule import Outcome

        if isinstance(event, Outcome):
            task = event.task
            self._running.pop(task.name, None)
            self._num_done += 1
            say = console.print_note if event.is_good else console.print_message
            say(_line(event))
            if event.is_good and task.out == task.final:
                _clear(task, self._jobs[task.out])
        else:
            self._running[event.name] = event
        self._bar.show(_names(list(self._running)), self._num_done)


def _line(outcome):
    text = f"{outcome.task.name}: {outcome.state}"
    if outcome.found.get("seconds"):
        text += f" in {outcome.found['seconds']:.1f} s"
    if outcome.fault is not None:
        text += f", {outcome.fault}"
    return text


def _names(running: Sequence[str]) -> str:
    more = len(running) - LISTED
    shown = ", ".join(running[:LISTED])
    return f"{shown} and {more} more" if more > 0 else shown


def _row(outcome) -> dict[str, Any]:
    from kmod.cli.job_tasks import found_at

    found, task = outcome.found, outcome.task
    if outcome.state == "kept" and task.out == task.final:
        found = found_at(task)
    peak = found.get("peak_bytes")
    return {
        "task": outcome.task.name,
        "state": outcome.state,
        "tries": outcome.tries,
        "lost_workers": outcome.losses,
        "seconds": found.get("seconds"),
        "peak_mib": peak and round(peak / 2**20),
        "place": found.get("place"),
        "source_accuracy": found.get("source_accuracy"),
        "accuracy": found.get("accuracy"),
        "out": outcome.task.out,
        "fault": outcome.fault,
    }


def _print(rows):
    columns = ("task", "", "tries", "seconds", "MiB", "source", "modules")
    table = [
        (
            row["task"],
            row["state"],
            row["tries"],
            _shown(row["seconds"], "{:.1f}"),
            _shown(row["peak_mib"], "{}"),
            _shown(row["source_accuracy"], "{:.1%}"),
            _shown(row["accuracy"], "{:.1%}"),
        )
        for row in rows
    ]
    console.print_table(columns, table)


def _shown(value, form):
    return "" if value is None else form.format(value)
