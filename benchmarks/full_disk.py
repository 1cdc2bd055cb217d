"""Lets the disk get full at many moments of what `kmod` writes.

Usage, from the root of the project, on Linux, as a user who may mount:

    python benchmarks/full_disk.py [--work DIR]

Every cell runs a command whose output lies on a disk of its own (a tmpfs) that
is a share of what the command needs at most. It must exit with 3 and one line
that names the disk's path and says that no space is left; what was there
before must be there still, and nothing half-written. Then the disk grows, the
same command (`kmod modularize` with `--resume`) must exit with 0, and its
output must be the one of a disk that was large from the start. A share so
large that the command ends well is taken smaller until it does not.

A later call goes on from the cells that are done. Writes
`benchmarks/results/full_disk.json`.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from common import machine
from common import part
from common import write_result
from kills import CNNSPLITTER
from kills import COMMANDS
from kills import DATA
from kills import ENVIRONMENT
from kills import Bench
from kills import facts_of

from kmod.composition.composition_manifest import list_export
from kmod.files.digests import list_files
from kmod.files.digests import unlisted

LARGE = 256 * 2**20
SMALLER = 0.9
# By name: the command, what of `Bench.old` it replaces, how many cells.
CELLS = {
    "modularize": (COMMANDS["gradsplitter"], None, 5),
    "modularize, overwrite": (COMMANDS["overwrite"], "overwrite", 3),
    "cnnsplitter": (["modularize", "../source.keras", *CNNSPLITTER], None, 2),
    "refine": (
        ["refine", "../old-store", "../source.keras", *DATA]
        + "--epochs 1 --out store".split(),
        None,
        3,
    ),
    "compose": (
        "compose ../new.yaml --out store".split(),
        None,
        3,
    ),
    "compose, overwrite": (COMMANDS["compose"], "compose", 3),
    "slim": (
        ["slim", "../source.keras", *DATA] + "--epochs 1 --out store".split(),
        None,
        2,
    ),
    "export": (
        "export ../old-model --format savedmodel --out store".split(),
        None,
        3,
    ),
}
OUT = "store"
INTERVAL = 0.005
SECONDS_TO_END = 5.0
TIMEOUT = 600


@contextlib.contextmanager
def disk(folder: Path, size: int):
    """Mounts a disk of `size` bytes at a folder, and empties it at the end."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "kmod"]
    subprocess.run(["mount", *options, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def grow(folder: Path) -> None:
    options = ["-o", f"remount,size={LARGE}"]
    subprocess.run(["mount", *options, folder], check=True)


def run(folder: Path, command: list[str]) -> dict:
    """Runs a command; returns its exit code, time and last words.

    Time is the processor's, so that other work does not count; what sleeps for
    `TIMEOUT` seconds hangs, too.
    """
    start = sum(os.times()[2:4])
    done = subprocess.run(
        [sys.executable, "-m", "kmod", *command],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    seconds = sum(os.times()[2:4]) - start
    words = [line for line in done.stderr.splitlines() if line.strip()]
    return {"code": done.returncode, "seconds": seconds, "words": words[-3:]}


def whole(bench: Bench, name: str) -> dict:
    """Runs a command on a large disk; returns what it needed and made."""
    command, _, _ = CELLS[name]
    with disk(bench.work / "disk", LARGE) as folder:
        put_old(bench, name, folder)
        before, most = used(folder), 0
        ended = threading.Event()

        def watch():
            nonlocal most
            while not ended.wait(INTERVAL):
                most = max(most, used(folder))

        watcher = threading.Thread(target=watch)
        watcher.start()
        done = run(folder, command)
        ended.set()
        watcher.join()
        if done["code"] != 0:
            raise SystemExit(f"{name}: {done}")
        facts = facts_of_output(folder / OUT)
    return {"before": before, "most": most, "facts": facts, **done}


def used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def put_old(bench: Bench, name: str, folder: Path) -> None:
    _, old, _ = CELLS[name]
    if old is not None:
        shutil.copytree(bench.old[old], folder / OUT)


def facts_of_output(path: Path) -> dict | None:
    """Returns what makes an output the same, `None` if it is not whole."""
    if (path / "export.yaml").exists():
        listed = list_export(path)
        is_whole = not unlisted(list_files(path), listed)
        return {"files": sorted(listed)} if is_whole else None
    return facts_of(path)


def cell(bench: Bench, name: str, share: float, wanted: dict) -> dict:
    """Runs a command on a disk too small for it, then on a large one."""
    command, old, _ = CELLS[name]
    needed = wanted["most"] - wanted["before"]
    while True:
        size = wanted["before"] + int(share * needed)
        with disk(bench.work / "disk", size) as folder:
            put_old(bench, name, folder)
            full = run(folder, command)
            if full["code"] == 0:
                share *= SMALLER  # It needs less than was seen at most.
                continue
            left = sorted(path.name for path in folder.iterdir())
            found = facts_of_output(folder / OUT)
            before = old and facts_of(bench.old[old])
            grow(folder)
            resume = ["--resume"] if command[0] == "modularize" else []
            again = run(folder, [*command, *resume])
            facts = facts_of_output(folder / OUT)
            left_again = sorted(path.name for path in folder.iterdir())
        words = " ".join(full["words"])
        is_said = "No space left on device" in words and str(folder) in words
        return {
            "name": name,
            "share": round(share, 3),
            "bytes": size,
            "exit_code": full["code"],
            "words": full["words"],
            "says_where": is_said and len(full["words"]) == 1,
            "left": left,
            "is_as_before": found == before
            and not set(left) - {OUT if old else "", f".{OUT}.run"},
            "seconds": round(full["seconds"], 1),
            "hangs": full["seconds"] > wanted["seconds"] + SECONDS_TO_END,
            "exit_code_again": again["code"],
            "equal": again["code"] == 0
            and facts == wanted["facts"]
            and left_again == [OUT],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("full-disk-work"))
    bench = Bench(parser.parse_args().work)
    bench.make_old()
    rows = []
    for name, (_, _, count) in CELLS.items():
        short = name.replace(", ", "-")
        path = bench.work / f"disk-whole-{short}.json"
        wanted = part(path, whole, bench, name)
        for number in range(count):
            share = (number + 0.5) / count
            path = bench.work / f"disk-{short}-{number}.json"
            row = part(path, cell, bench, name, share, wanted)
            print(json.dumps(row), flush=True)
            rows.append(row)
            write_result("full_disk", result(rows))


def result(rows: list[dict]) -> dict:
    return {
        "command": "python benchmarks/full_disk.py",
        "machine": machine(),
        "summary": {
            "cells": len(rows),
            "exit_code_3": sum(row["exit_code"] == 3 for row in rows),
            "says_where": sum(row["says_where"] for row in rows),
            "is_as_before": sum(row["is_as_before"] for row in rows),
            "hangs": sum(row["hangs"] for row in rows),
            "equal": sum(row["equal"] for row in rows),
        },
        "rows": rows,
    }


if __name__ == "__main__":
    main()
