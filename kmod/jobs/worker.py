"""What a worker does around a task: settings before it, figures behind it."""

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from kmod.jobs.tasks import Task
from kmod.jobs.tensorflow_settings import limit_tensorflow

Run = Callable[[Task], dict[str, Any]]


def work(run: Run, task: Task, threads: int) -> dict[str, Any]:
    """Runs a task in this process.

    Args:
        run: Function of a module's top level that does the task; returns
            figures.
        task: The task.
        threads: Threads that TensorFlow may use.

    Returns:
        The figures; `seconds`; `peak_bytes`, the most memory that the process
        ever held, 0 where that is not known; and `place`, where it ran. A task
        that failed has a `fault` in words, and `is_final` if another try would
        end so, too.
    """
    start = time.perf_counter()
    try:
        limit_tensorflow(threads)
        found = run(task)
    except Exception as error:
        found = {"fault": f"unexpected {type(error).__name__}: {error}"}
        found["traceback"] = traceback.format_exc()
    return {
        **found,
        "seconds": time.perf_counter() - start,
        "peak_bytes": _peak_bytes(),
        "place": f"{platform.node()}:{os.getpid()}",
    }


def _peak_bytes():
    if os.name == "nt":
        return 0  # Not known there.
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
