"""Takes twelve sources apart by one process and by a cluster of two nodes.

Usage, from the root of the project, on a machine that does nothing else:

    python benchmarks/scale.py [--sources 12] [--work DIR]

`one`: `kmod jobs` with one worker, held on one core. `two`: the same list with
`--ray` on a cluster of this machine that runs already, two nodes of one core
each. `killed`: the same, but one node is removed when a quarter of the stores
are there. All must end with the same content of every module. `opening` and
`planning`: a store of 1,000 modules, as large as that of a full-size network,
is opened and a spec of all its classes is planned, in processes of their own.
Needs Linux and Ray (`pip install 'kmod[ray]'`).

A later call goes on from the parts that are done. Writes
`benchmarks/results/scale.json` and the section `scale` of
`benchmarks/results/summary.json`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import in_child
from common import machine
from common import part
from common import update_summary
from common import write_result
from kills import train_source
from planning import measure
from planning import write_stores

NUM_MODULES = 1000
NUM_OPENINGS = 5
# Opens a store in a process that has imported what is needed.
OPEN = """
import json, re, sys, time
import kmod
kmod.load_store
start = time.perf_counter()
store = kmod.load_store(sys.argv[1], verify=False)
seconds = time.perf_counter() - start
status = open("/proc/self/status").read()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])  # kB
print(json.dumps({"seconds": seconds, "peak_mib": round(peak / 1024)}))
"""
LIST = """\
version: 1
out: stores
data: {name: digits}
options: {epochs: 2, refine_epochs: 2, batch_size: 128}
sources:
"""


def main():
    args = parse_arguments()
    work = args.work.absolute()
    part(work / "sources.json", train_sources, work, args.sources)
    one = part(work / "one.json", run_one, work, args.sources)
    two = part(work / "two.json", run_two, work, args.sources)
    killed = part(work / "killed.json", run_killed, work, args.sources)
    opening = part(work / "opening.json", open_store, work)
    planning = part(work / "planning.json", plan_store, work)
    figures = {
        "sources": args.sources,
        "throughput_ratio": one["seconds"] / two["seconds"],
        "equal": one["contents"] == two["contents"] == killed["contents"],
        "killed": {
            "lost_workers": sum(row["lost_workers"] for row in killed["rows"]),
            "done_twice": sum(row["tries"] > 1 for row in killed["rows"]),
            "missing": args.sources - len(killed["contents"]),
        },
        "seconds": {name: run["seconds"] for name, run in parts(one, two)},
        "peak_mib": {
            name: max(row["peak_mib"] for row in run["rows"])
            for name, run in parts(one, two)
        },
        "opening": opening,
        "planning": planning,
    }
    facts = {
        "command": f"python benchmarks/scale.py --sources {args.sources}",
        "machine": {**machine(), "load": round(os.getloadavg()[0], 1)},
    }
    write_result("scale", {**facts, **figures})
    update_summary("scale", figures)
    print(json.dumps(figures, indent=1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, default=12, metavar="N")
    parser.add_argument("--work", type=Path, default=Path("scale-work"))
    return parser.parse_args()


def parts(one, two):
    return ("one", one), ("two", two)


def train_sources(work, count):
    """Trains small networks on digits, each from a seed of its own."""
    for seed in range(count):
        path = work / f"source-{seed}.keras"
        if not path.exists():
            in_child(train_source, path, seed)


def run_one(work, count):
    path = new_list(work / "one", count)
    return run(path, ["--threads", "1"], before=hold_on_one_core)


def hold_on_one_core():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run_two(work, count):
    cluster, _ = new_cluster()
    try:
        return run(new_list(work / "two", count), ["--ray", cluster.address])
    finally:
        cluster.shutdown()


def run_killed(work, count):
    """Runs the list and removes a node while both are at work."""
    path = new_list(work / "killed", count)
    cluster, victim = new_cluster()

    def kill(process):
        stores = path.parent / "stores"
        while len(list(stores.glob("[!.]*"))) < count // 4:
            if process.poll() is not None:
                raise SystemExit("The list ended before a node was removed.")
            time.sleep(0.1)
        cluster.remove_node(victim)

    try:
        return run(path, ["--ray", cluster.address], meanwhile=kill)
    finally:
        cluster.shutdown()


def new_cluster():
    """Starts a head without a core and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    *_, last = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    return cluster, last


def new_list(folder, count):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = [f"  - model: ../source-{seed}.keras\n" for seed in range(count)]
    (folder / "jobs.yaml").write_text(LIST + "".join(rows))
    return folder / "jobs.yaml"


def run(path, options, before=None, meanwhile=lambda process: None):
    """Runs `kmod jobs`; returns its time, its rows and what it made."""
    command = [sys.executable, "-m", "kmod", "jobs", path, "--json", *options]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=before
    )
    meanwhile(process)
    out, _ = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise SystemExit(f"`kmod jobs` exited with {process.returncode}")
    stores = sorted((path.parent / "stores").iterdir())
    return {
        "seconds": seconds,
        "rows": json.loads(out),
        "contents": {store.name: contents(store) for store in stores},
    }


def contents(path):
    """Returns the content digest of every module of a store."""
    import kmod

    store = kmod.load_store(path)
    return {name: store.content(name) for name in store}


def large_store(work):
    """Writes a store of very many modules' manifests, and a spec of all."""
    folder = work / "large"
    if not (folder / "spec.yaml").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_stores(folder, 1, NUM_MODULES)
    return folder


def open_store(work):
    path = large_store(work) / "store-0"
    command = [sys.executable, "-c", OPEN, path]
    runs = []
    for _ in range(NUM_OPENINGS):
        done = subprocess.run(command, check=True, capture_output=True)
        runs.append(json.loads(done.stdout))
    return {
        "modules": NUM_MODULES,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
    }


def plan_store(work):
    spec = large_store(work) / "spec.yaml"
    # What children took before counts for a process, so it is a new one.
    return {"modules": NUM_MODULES, **in_child(measure, spec, NUM_MODULES)}


if __name__ == "__main__":
    main()
