"""What a worker does around a task: settings before it, figures behind it."""

import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from kmod.jobs.tasks import Task

THREADS = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

Run = Callable[[Task], dict[str, Any]]


def set_up_tensorflow() -> None:
    """Keeps TensorFlow's notes out of the messages and its fast kernels on.

    TensorFlow leaves oneDNN off on some processors, such as those without
    AVX-512, though convolutions gain there as well.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


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


def limit_tensorflow(threads: int) -> None:
    """Sets threads and memory growth, before TensorFlow is imported.

    A worker that is used again keeps what its first task has set.
    """
    set_up_tensorflow()
    for name in THREADS:
        os.environ[name] = str(threads)
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Of JAX.


def _peak_bytes():
    if os.name == "nt":
        return 0  # Not known there.
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
