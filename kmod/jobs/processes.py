"""Runs tasks in processes of this machine."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from multiprocessing import connection
from pathlib import Path

from kmod.errors import UsageError
from kmod.jobs.schedule import Report
from kmod.jobs.tasks import Task
from kmod.jobs.worker import Run
from kmod.jobs.worker import work

PATIENCE = 10.0  # Seconds that a worker has to clear up when it must end.
MAX_SHOWN = 500
_GPUS = "CUDA_VISIBLE_DEVICES"


class ProcessExecutor:
    """Runs tasks in spawned processes, each used again unless it has GPUs.

    Args:
        run: Function of a module's top level that does a task.
        num_workers: Tasks at a time, at most; 1 is one after the other.
        threads: Threads of each task.
        gpus: Whole GPUs of each task. With any, every task gets a process of
            its own; with none, tasks see all GPUs.

    Raises:
        UsageError: If there are not so many GPUs.
    """

    def __init__(self, run: Run, num_workers: int, threads: int, gpus: int = 0):
        self._run, self._threads, self._gpus = run, threads, gpus
        self._num_workers = num_workers
        self._memory = available_memory()
        self._free_gpus = gpu_ids() if gpus else []
        if len(self._free_gpus) < gpus:
            raise UsageError(
                "`gpus` must be at most the number of GPUs of this machine, "
                f"{len(self._free_gpus)}. Received: gpus={gpus}"
            )
        self._idle, self._busy = [], {}

    def has_room(self, need: int) -> bool:
        if not self._busy:
            return True
        taken = sum(need for _, need in self._busy.values())
        return (
            len(self._busy) < self._num_workers
            and len(self._free_gpus) >= self._gpus
            and (self._memory is None or taken + need <= self._memory)
        )

    def start(self, task: Task, need: int) -> None:
        if self._idle:
            worker = self._idle.pop()
        else:
            gpus = [self._free_gpus.pop(0) for _ in range(self._gpus)]
            worker = _Worker(self._run, self._threads, gpus)
        self._busy[worker] = task.name, need
        worker.send(task)
        # What waits for tasks that do not come holds memory.
        while self._idle and not self.has_room(need):
            self._idle.pop().close()

    def wait(self) -> Report | None:
        pipes = {worker.pipe: worker for worker in self._busy}
        for pipe in connection.wait(list(pipes)):
            worker = pipes[pipe]
            name, _ = self._busy.pop(worker)
            found = worker.receive()
            if found is None:
                report = Report(name, loss=worker.loss())
            else:
                report = Report(name, found)
            if found is None or self._gpus:
                worker.close()
                self._free_gpus += worker.gpus
            else:
                self._idle.append(worker)
            return report

    def close(self) -> None:
        workers = [*self._idle, *self._busy]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.close()
        self._idle, self._busy = [], {}


class _Worker:
    """A spawned process, and the pipe that tasks and results go through."""

    def __init__(self, run, threads, gpus):
        spawn = multiprocessing.get_context("spawn")
        self.gpus = gpus
        self.pipe, other = spawn.Pipe()
        descriptor, name = tempfile.mkstemp(prefix="kmod-worker-")
        os.close(descriptor)
        self._log = Path(name)
        self.process = spawn.Process(
            target=_serve, args=(other, run, threads, gpus, name), daemon=True
        )
        self.process.start()
        other.close()

    def send(self, task):
        with contextlib.suppress(OSError):  # It died; `receive` will tell.
            self.pipe.send(task)

    def receive(self):
        """Returns what the worker said, `None` if it died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return None

    def loss(self):
        """Says how the worker died."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        lines = self._log.read_text(errors="replace").strip()[-MAX_SHOWN:]
        return f"its worker died ({how})" + f": {lines}" * bool(lines)

    def close(self):
        self.pipe.close()  # An idle worker ends then.
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()
        self._log.unlink(missing_ok=True)


def _serve(pipe, run, threads, gpus, log):
    """Does tasks until the pipe is closed, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends workers.
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if gpus:
        os.environ[_GPUS] = ",".join(gpus)
    with contextlib.suppress(EOFError, KeyboardInterrupt, OSError):
        while True:
            pipe.send(work(run, pipe.recv(), threads))


def _interrupt(*_):
    raise KeyboardInterrupt  # What is half-written is removed on its way.


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def gpu_ids() -> list[str]:
    """Lists the GPUs of this machine that may be used, without TensorFlow."""
    if _GPUS in os.environ:
        return [each for each in os.environ[_GPUS].split(",") if each]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def available_memory() -> int | None:
    """Returns the bytes that processes may still take, `None` if not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    free = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # No limit is no number.
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return free
