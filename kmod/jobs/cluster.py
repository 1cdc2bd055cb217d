"""Runs tasks on a Ray cluster, whose nodes see the same files."""

import importlib.util
import math
import socket

from kmod.errors import UsageError
from kmod.jobs.schedule import Report
from kmod.jobs.tasks import Task
from kmod.jobs.worker import Run
from kmod.jobs.worker import work

WAIT = 2.0  # Seconds; nodes may come and go meanwhile.
PATIENCE = 10.0  # Seconds that tasks have to clear up when they must end.


class RayExecutor:
    """Runs tasks on a Ray cluster.

    One task more than fits is handed over, so that no node waits and a
    cluster that grows sees that it must.

    Args:
        run: Function of a module's top level that does a task.
        address: Address of the cluster. Defaults to that of the variable
            `RAY_ADDRESS`, and else to a new one of this machine.
        threads: Threads of each task, which needs as many CPUs.
        gpus: Whole GPUs of each task.

    Raises:
        UsageError: If Ray is not installed or there is no such cluster.
    """

    def __init__(
        self, run: Run, address: str | None, threads: int, gpus: int = 0
    ):
        if importlib.util.find_spec("ray") is None:
            raise UsageError(
                "Tasks run on a cluster by Ray. Received: an environment "
                "without it. Install it with `pip install 'kmod[ray]'`."
            )
        import ray

        self._ray, self._run = ray, run
        self._threads, self._gpus = threads, gpus
        self._is_own = not ray.is_initialized()
        if self._is_own:
            _connect(ray, address)
        # Of GPU tasks Ray uses no worker again, and it sets which they see.
        self._work = ray.remote(max_retries=0)(work)
        self._running = {}

    def has_room(self, need: int) -> bool:
        fit = sum(self._fits(node["Resources"]) for node in self._nodes())
        return len(self._running) <= fit

    def start(self, task: Task, need: int) -> None:
        # A task that no node has the memory for would wait for ever.
        most = [node["Resources"].get("memory", 0) for node in self._nodes()]
        memory = min(need, max(most, default=need))
        remote = self._work.options(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            memory=int(memory),
            name=task.name,
        )
        reference = remote.remote(self._run, task, self._threads)
        self._running[reference] = task.name

    def wait(self) -> Report | None:
        ended, _ = self._ray.wait(
            list(self._running), num_returns=1, timeout=WAIT
        )
        if not ended:
            return None
        name = self._running.pop(ended[0])
        try:
            return Report(name, self._ray.get(ended[0]))
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().partition("\n")[0]
            return Report(name, loss=f"{type(error).__name__}: {first}")

    def close(self) -> None:
        references, self._running = list(self._running), {}
        for reference in references:
            self._ray.cancel(reference)  # As Ctrl-C would.
        if references:
            num_returns = len(references)
            self._ray.wait(
                references, num_returns=num_returns, timeout=PATIENCE
            )
        if self._is_own:
            self._ray.shutdown()

    def _nodes(self):
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _fits(self, resources):
        cpus = resources.get("CPU", 0) / self._threads
        gpus = resources.get("GPU", 0) / self._gpus if self._gpus else math.inf
        return math.floor(min(cpus, gpus))


def _connect(ray, address):
    try:
        host, _, port = (address or "").rpartition(":")
        if port.isdecimal() and "/" not in host:  # Ray would try for minutes.
            socket.create_connection((host, int(port)), WAIT).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError) as error:
        raise UsageError(
            "`ray` must be the address of a cluster that runs, such as "
            f"127.0.0.1:6379. Received: ray={address!r}, where {error}. Start "
            "one with `ray start --head`, or leave the address out."
        ) from error
