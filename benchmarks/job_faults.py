"""Runs a job list for half an hour while something always goes wrong.

Usage, from the root of the project, on Linux, as a user who may mount:

    python benchmarks/job_faults.py [--minutes 30] [--seed 0] [--work DIR]

Each round makes the stores of a list (one source in shards, one twice with
other options) on a disk of its own, by `kmod jobs --jobs 2`, again and again
until all are there. Meanwhile, every few seconds, one of these happens: a
worker is killed, the command itself is killed, the disk gets full for a while,
a source is gone for a while. After each call what it printed must be true:
what it calls made or kept is there and has the content of a run that nothing
disturbed; what failed has a reason; nothing half-written is taken for a store.
At the end of a round all stores are there and nothing else.

A later call goes on from the rounds that are done. Writes
`benchmarks/results/job_faults.json` and its part of the section `scale` of
`benchmarks/results/summary.json`.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import in_child
from common import machine
from common import part
from common import update_summary
from common import write_result
from full_disk import disk
from kills import facts_of
from kills import train_source

NUM_SOURCES = 3
SIZE = 48 * 2**20
MEAN_SECONDS = 12.0  # Between two faults.
CALM = 4  # Calls of a round before nothing goes wrong any more.
LIST = """\
version: 1
out: disk/stores
data: {name: digits}
options: {epochs: 2, batch_size: 128}
sources:
  - {model: source-0.keras, store: a, options: {refine_epochs: 1}}
  - {model: source-1.keras, store: b, options: {refine_epochs: 1}}
  - {model: source-1.keras, store: c, options: {refine_epochs: 1, seed: 2}}
  - {model: source-2.keras, store: d, shards: 3, options: {frozen: true}}
"""


class Round:
    """Makes all stores of a list while faults happen.

    Args:
        work: Folder of the sources.
        number: Its number; it seeds the draws.
        right: What each store is, if nothing disturbs.
    """

    def __init__(self, work: Path, number: int, seed: int, right: dict):
        self.draw = random.Random(f"{seed} {number}")
        self.right = right
        self.folder = work
        self.disk = work / "disk"
        self.faults = collections.Counter()
        self.wrong = []
        self.calls = []

    def run(self) -> dict:
        start = time.perf_counter()
        with disk(self.disk, SIZE):
            while not self.calls or self.calls[-1] != 0:
                is_calm = len(self.calls) >= CALM
                self.calls.append(self.call(is_calm))
                if len(self.calls) > 3 * CALM:
                    self.wrong.append("the list does not come to its end")
                    break
            stores = self.disk / "stores"
            left = sorted(path.name for path in stores.iterdir())
            if left != sorted(self.right):
                self.wrong.append(f"at the end there are {left}")
        return {
            "exit_codes": self.calls,
            "faults": dict(self.faults),
            "violations": self.wrong,
            "seconds": round(time.perf_counter() - start, 1),
        }

    def call(self, is_calm: bool) -> int:
        """Runs `kmod jobs` once and checks what it says."""
        words = ["-m", "kmod", "jobs", "jobs.yaml", "--json", "--jobs", "2"]
        process = subprocess.Popen(
            [sys.executable, *words, "--threads", "1"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        ended = threading.Event()
        trouble = threading.Thread(target=self.disturb, args=(process, ended))
        if not is_calm:
            trouble.start()
        out, err = process.communicate()
        ended.set()
        if not is_calm:
            trouble.join()
        self.check(process.returncode, out, err)
        return process.returncode

    def disturb(self, process, ended) -> None:
        kinds = [self.kill_worker, self.kill_driver, self.fill, self.hide]
        while not ended.wait(self.draw.expovariate(1 / MEAN_SECONDS)):
            fault = self.draw.choice(kinds)
            if fault(process, ended):
                self.faults[fault.__name__] += 1

    def kill_worker(self, process, ended) -> bool:
        workers = children(process.pid)
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.draw.choice(workers), signal.SIGKILL)
        return bool(workers)

    def kill_driver(self, process, ended) -> bool:
        if self.draw.random() < 0.5:  # It ends the call, so more seldom.
            return False
        process.kill()
        return True

    def fill(self, process, ended) -> bool:
        path = self.disk / "full"
        found = os.statvfs(self.disk)
        with contextlib.suppress(OSError), open(path, "wb") as file:
            file.write(bytes(found.f_bavail * found.f_frsize))
        ended.wait(self.draw.uniform(1, 8))
        path.unlink()
        return True

    def hide(self, process, ended) -> bool:
        path = self.folder / f"source-{self.draw.randrange(NUM_SOURCES)}.keras"
        aside = path.with_suffix(".aside")
        path.rename(aside)
        ended.wait(self.draw.uniform(1, 15))
        aside.rename(path)
        return True

    def check(self, code: int, out: str, err: str) -> None:
        """Notes what is not as it should be after a call."""
        stores = self.disk / "stores"
        found = {}
        if stores.exists():
            for path in stores.glob("[!.]*"):
                found[path.name] = facts_of(path)
        for name, facts in found.items():
            if facts != self.right.get(name):
                what = "half-written" if facts is None else "another one"
                self.wrong.append(f"store '{name}' is {what}")
        if "Traceback" in err:
            self.wrong.append(f"a traceback: {err[-500:]}")
        if code == -signal.SIGKILL:
            return
        if code == 3 and "source" in err:  # It was gone before the start.
            return
        if code not in (0, 1):
            self.wrong.append(f"exit code {code}: {err[-500:]}")
            return
        rows = json.loads(out)
        for row in rows:
            name, is_good = row["task"], row["state"] in ("made", "kept")
            if name in self.right and is_good and name not in found:
                self.wrong.append(f"'{name}' is called {row['state']}")
            if not is_good and not row["fault"]:
                self.wrong.append(f"'{name}' {row['state']} for no reason")
        if (code == 0) != all(r["state"] in ("made", "kept") for r in rows):
            self.wrong.append(f"exit code {code} with other states")


def children(pid: int) -> list[int]:
    """Returns the workers of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            command = (path.parent / "cmdline").read_text()
            if int(fields[1]) == pid and "spawn_main" in command:
                found.append(int(path.parent.name))
    return found


def prepare(work: Path) -> dict:
    """Trains the sources and makes all stores, with nothing going wrong."""
    for seed in range(NUM_SOURCES):
        path = work / f"source-{seed}.keras"
        if not path.exists():
            in_child(train_source, path, seed)
    (work / "jobs.yaml").write_text(LIST)
    shutil.rmtree(work / "disk", ignore_errors=True)
    command = [sys.executable, "-m", "kmod", "jobs", "jobs.yaml"]
    subprocess.run([*command, "--threads", "1"], cwd=work, check=True)
    stores = work / "disk" / "stores"
    right = {path.name: facts_of(path) for path in stores.iterdir()}
    shutil.rmtree(work / "disk")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("job-faults-work"))
    args = parser.parse_args()
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    right = part(work / "right.json", prepare, work)
    right.pop("seconds")
    rows = []
    while sum(row["seconds"] for row in rows) < 60 * args.minutes:
        number = len(rows)
        path = work / f"round-{number:02d}.json"
        rows.append(part(path, Round(work, number, args.seed, right).run))
        print(json.dumps(rows[-1]), flush=True)
    figures = {
        "minutes": sum(row["seconds"] for row in rows) / 60,
        "rounds": len(rows),
        "calls": sum(len(row["exit_codes"]) for row in rows),
        "faults": dict(
            sum(
                map(collections.Counter, (row["faults"] for row in rows)),
                collections.Counter(),
            )
        ),
        "violations": sum((row["violations"] for row in rows), start=[]),
    }
    words = f"--minutes {args.minutes:g} --seed {args.seed}"
    facts = {
        "command": f"python benchmarks/job_faults.py {words}",
        "machine": machine(),
    }
    write_result("job_faults", {**facts, **figures, "rows": rows})
    update_summary("scale", {"faults": figures})
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
