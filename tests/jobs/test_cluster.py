import time

import pytest

from kmod.errors import UsageError
from kmod.jobs import cluster as cluster_module
from kmod.jobs.cluster import RayExecutor
from kmod.jobs.schedule import Schedule

pytestmark = pytest.mark.long

IS_THERE = cluster_module.importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not IS_THERE, reason="Ray is not installed")


@pytest.fixture
def cluster(work, monkeypatch):
    """A cluster of this machine, whose head has no CPU to do tasks with."""
    from ray.cluster_utils import Cluster

    # Else other processes of this machine go before the workers.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


@needs_ray
def test_a_task_whose_node_dies_is_done_on_another(
    cluster, work, task, tmp_path
):
    nodes = {node.node_id: node for node in map(add_node, [cluster] * 2)}
    executor = RayExecutor(work.first_time_for_ever, cluster.address, 1)
    begun = tmp_path / "a.begun"

    def notify(event):
        if event is tasks[1]:
            while not begun.exists() or not begun.read_text():
                time.sleep(0.1)
            cluster.remove_node(nodes[begun.read_text()])
            (tmp_path / "b.begun").touch()

    tasks = [task(name) for name in "ab"]
    try:
        outcomes = Schedule(tasks, executor, notify).run()
    finally:
        executor.close()
    assert [each.state for each in outcomes] == ["made", "made"]
    assert [(each.tries, each.losses) for each in outcomes] == [(2, 1), (1, 0)]


def add_node(cluster):
    return cluster.add_node(num_cpus=1)


@needs_ray
def test_no_cluster_at_the_address_is_said(work):
    with pytest.raises(UsageError, match="`ray` must be the address of a"):
        RayExecutor(work.echo, "127.0.0.1:1", 1)


def test_a_missing_ray_is_said(monkeypatch):
    monkeypatch.setattr(
        cluster_module.importlib.util, "find_spec", lambda name: None
    )
    with pytest.raises(UsageError, match=r"pip install 'kmod\[ray\]'"):
        RayExecutor(print, None, 1)
