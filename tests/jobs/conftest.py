import importlib
import sys

import pytest

from kmod.jobs.tasks import Task

# What workers run, without TensorFlow's help. Spawned ones and those of Ray
# import it by its name, which tests have none of.
WORK = '''
import os
import signal
import time
from pathlib import Path

from kmod.files import atomic_directory


def echo(task):
    return {"said": task.name, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}


def threads(task):
    import tensorflow as tf

    tf.function(lambda x: x + 1)(tf.zeros(2))
    names = Path("/proc/self/task").glob("*/comm")
    computing = [x for x in names if x.read_text() == "tf_Compute\\n"]
    return {
        "threads": len(computing),
        "growth": os.environ["TF_FORCE_GPU_ALLOW_GROWTH"],
    }


def die_once(task):
    if not (Path(task.out) / "tried").exists():
        (Path(task.out) / "tried").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fail(task):
    raise ValueError("no luck")


def write_for_ever(task):
    with atomic_directory(Path(task.out) / "result") as temporary:
        (temporary / "half").touch()
        (Path(task.out) / "begun").touch()
        time.sleep(60)


def first_time_for_ever(task):
    """Ends at once the second time."""
    import ray

    begun = Path(task.out) / f"{task.name}.begun"
    if begun.exists():
        return {}
    begun.write_text(ray.get_runtime_context().get_node_id())
    time.sleep(60)
'''


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The module of what workers run."""
    (tmp_path / "work_of_tests.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    yield importlib.import_module("work_of_tests")
    del sys.modules["work_of_tests"]


@pytest.fixture
def task(tmp_path):
    """Makes a task of a name, for which nothing exists."""

    def task(name, needs=(), out=tmp_path, kind="store"):
        return Task(
            name=name,
            kind=kind,
            store=name,
            out=str(out),
            digest="sha256:" + 64 * "0",
            model="m.keras",
            data="digits",
            options={},
            final=str(out),
            needs=dict.fromkeys(needs, ""),
        )

    return task
