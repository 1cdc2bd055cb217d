"""Kills `kmod` at its worst moments and lets it go on.

Usage, from the root of the project:

    python benchmarks/kills.py [--seed 0] [--processes 2] [--work DIR]

Every cell runs the command in a process that counts what it does to files
below its folder (makes, writes, syncs, renames, removes) and kills itself by
SIGKILL at one of these events, half of a file's bytes written among them;
some cells are killed at a random time, some a second time while they go on.
Then `--resume` must exit with 0, and the store must be the one of a run that
nothing cut short: the same content of every module and the same metrics. Two
uninterrupted runs are compared first. A kill so late that no run is left to
go on with leaves a complete store; `--resume` then refuses to replace it with
exit code 2, and it must be the same, too.

`kmod compose --overwrite` is killed while it replaces a composed model, with
and without a system that lets two directories change places in one step. The
old or the new model must be there as a whole, or the old one aside from where
the next call puts it back; the same command must then make the new one.

Needs Linux. A later call goes on from the cells that are done. Writes
`benchmarks/results/kills.json`.
"""

import argparse
import builtins
import dataclasses
import functools
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import machine
from common import read_result
from common import write_result

NAME = "kills"
OUT = "store"
RUN = f".{OUT}.run"
CLASSES = ("3", "8", "9")
DATA = ["--data", "digits", "--classes", ",".join(CLASSES)]
COMMON = [*DATA, "--mask-from", "conv_2", "--frozen", "--out", OUT]
GRADSPLITTER = ["--epochs", "4", "--batch-size", "256", *COMMON]
GRADSPLITTER += ["--for", "alone"]
CNNSPLITTER = ["--method", "cnnsplitter", "--population", "6", *COMMON]
CNNSPLITTER += ["--generations", "3", "--images", "60", "--head-epochs", "2"]
MODULARIZE = ["modularize", "../source.keras"]
COMPOSE = ["compose", "../new.yaml", "--overwrite", "--out", OUT]
COMMANDS = {
    "gradsplitter": [*MODULARIZE, *GRADSPLITTER],
    "overwrite": [*MODULARIZE, *GRADSPLITTER, "--overwrite"],
    "cnnsplitter": [*MODULARIZE, *CNNSPLITTER],
    "compose": COMPOSE,
    "two renames": COMPOSE,
}
# Kills at events, at events twice in a row, and at random times. All events of
# the methods in `AIMED` are worst moments; others have all kinds.
CELLS = {
    "gradsplitter": (20, 28, 8),
    "overwrite": (10, 2, 2),
    "cnnsplitter": (4, 4, 2),
    "compose": (54, 0, 8),
    "two renames": (32, 0, 0),
}
AIMED = ("overwrite", "compose", "two renames")
SPEC = """\
version: 1
name: {name}
stores: {{old: {{path: old-store}}}}
classes:
"""
# Compiling takes longer than these networks compute.
ENVIRONMENT = {"XLA_FLAGS": "--xla_backend_optimization_level=0"} | os.environ
IMPORTED = (
    "sklearn.datasets",
    "kmod.composition.saving",
    "kmod.composition.composer",
    "kmod.modular.cnnsplitter.modularize",
    "kmod.modular.modularize",
    "kmod.modules.decompose",
)
KILLED = -signal.SIGKILL
# Half of a file is written, or something changes its place.
WORST = {("write", "half")} | {
    (kind, when)
    for kind in ("rename", "replace", "exchange")
    for when in ("before", "after")
}


class Watch:
    """Counts what a process does to the files of a folder, and kills it.

    Args:
        folder: Only what happens below it counts.
        log: File outside the folder; gets one JSON line for each event, or
            only for that of the kill.
        at: Number of the event to kill at, `None` to note all.
    """

    def __init__(self, folder: Path, log: Path, at: int | None):
        self.folder = f"{os.path.realpath(folder)}/"
        self.at = at
        self.count = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def patch(self, exchanges: bool = True) -> None:
        """Puts a counter around all that changes files.

        Args:
            exchanges: Whether directories can change places in one step.
        """
        for name in ("mkdir", "rmdir", "unlink", "remove", "fsync"):
            self._wrap(os, name, 0)
        for name in ("rename", "replace"):
            self._wrap(os, name, 1)
        from kmod.files import atomic

        if exchanges:
            self._wrap(atomic, "_exchange", 1)
        else:
            atomic._exchange = lambda first, second: False
        builtins.open = io.open = self._opener(io.open)

    def event(self, kind: str, when: str, path: str) -> None:
        """Notes an event, and ends the process if it is the one."""
        if self._reach(kind, when, path):
            self.kill()

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def writes_half(self, path: str) -> bool:
        """Whether the process must die in the middle of this write."""
        return self._reach("write", "half", path)

    def _reach(self, kind, when, path):
        is_it = self.count == self.at
        if is_it or self.at is None:
            file = re.sub(r"(tmp|old)-.*?-[0-9a-f]{8}", r"\1", path)
            row = {"event": self.count, "kind": kind, "when": when}
            row["file"] = file.removeprefix(self.folder)
            os.write(self._log, f"{json.dumps(row)}\n".encode())
        self.count += 1
        return is_it

    def _wrap(self, owner, name, place):
        change = getattr(owner, name)
        kind = name.lstrip("_")

        @functools.wraps(change)
        def wrapped(*args, **options):
            path = _path_of(args[place], options)
            if not path.startswith(self.folder):
                return change(*args, **options)
            self.event(kind, "before", path)
            result = change(*args, **options)
            self.event(kind, "after", path)
            return result

        setattr(owner, name, wrapped)

    def _opener(self, real):
        watch = self

        class Writer(io.BufferedWriter):
            def write(self, data):
                return _write(watch, super().write, self, data)

        class Random(io.BufferedRandom):
            def write(self, data):
                return _write(watch, super().write, self, data)

        @functools.wraps(real)
        def opened(file, mode="r", buffering=-1, *text, **options):
            writes = set(mode) & set("wxa+") and not isinstance(file, int)
            path = _path_of(file, {}) if writes else ""
            if not path.startswith(watch.folder):
                return real(file, mode, buffering, *text, **options)
            raw = io.FileIO(file, "".join(c for c in mode if c not in "bt"))
            watch.event("create", "after", path)
            buffer = (Random if "+" in mode else Writer)(raw)
            if "b" in mode:
                return buffer
            return io.TextIOWrapper(buffer, *text, **options)

        return opened


def _write(watch, write, file, data):
    path = _path_of(file.fileno(), {})
    if watch.writes_half(path):
        write(memoryview(data).cast("B")[: len(data) // 2])
        file.flush()
        watch.kill()
    count = write(data)
    watch.event("write", "after", path)
    return count


def _path_of(file, options):
    if isinstance(file, int):
        return os.readlink(f"/proc/self/fd/{file}")
    folder = options.get("dir_fd", options.get("dst_dir_fd"))
    start = os.getcwd() if folder is None else f"/proc/self/fd/{folder}"
    path = os.path.join(start, os.fsdecode(file))
    return os.path.join(
        os.path.realpath(os.path.dirname(path)), os.path.basename(path)
    )


def serve() -> None:
    """Forks a process for every run that standard input asks for.

    It has imported all that `kmod` imports, and done nothing else, so that a
    run does not begin with seconds of imports.
    """
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    from kmod.cli.main import main as kmod

    for name in IMPORTED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            errors = os.open(asked["errors"], os.O_WRONLY | os.O_APPEND)
            os.dup2(errors, 1), os.dup2(errors, 2)
            os.chdir(asked["folder"])
            if asked["log"] is not None:
                folder, log = Path(asked["folder"]), Path(asked["log"])
                watch = Watch(folder, log, asked["at"])
                watch.patch(asked["exchanges"])
            code = kmod(asked["words"])
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        answers.write(f"{_wait_for(process, asked['seconds'])}\n")
        answers.flush()


def _wait_for(process, seconds):
    """Returns how a child ended, which is killed after so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run that is killed and goes on.

    Attributes:
        number: Its number.
        method: Key of `COMMANDS`.
        events: Events to kill at, one after the other.
        share: Share of an uninterrupted run's time to kill at, or `None`.
    """

    number: int
    method: str
    events: tuple[int, ...] = ()
    share: float | None = None


class Bench:
    """Runs cells, each in a folder of its own.

    Args:
        work: Directory for everything.
    """

    def __init__(self, work: Path):
        self.work = work.absolute()
        self._servers = threading.local()  # A process for each thread.
        # What is there before a run that replaces it.
        self.old = {
            "overwrite": self.work / "old-store",
            "compose": self.work / "old-model",
            "two renames": self.work / "old-model",
        }

    def prepare(self) -> dict:
        """Runs all that no kill cuts short.

        Returns:
            By method: `events`, `seconds`, `facts` of the output, and whether
            a second run's are `equal`.
        """
        self.make_old()
        return {method: self._whole(method) for method in COMMANDS}

    def make_old(self) -> None:
        """Trains the source and makes a store, specs and a composed model."""
        self.work.mkdir(parents=True, exist_ok=True)
        if not (self.work / "source.keras").exists():
            path = self.work / "source.keras"
            train = [sys.executable, __file__, "source", path]
            subprocess.run(train, check=True)
        if not self.old["overwrite"].exists():
            command = [*COMMANDS["gradsplitter"], "--seed", "1"]
            self._make_old("gradsplitter", command, self.old["overwrite"])
        if not self.old["compose"].exists():
            for name, classes in (("old", CLASSES), ("new", CLASSES[:2])):
                rows = (
                    f'  - {{name: "{c}", module: {{store: old, class: "{c}"}}}}'
                    for c in classes
                )
                text = "\n".join([SPEC.format(name=name), *rows, ""])
                (self.work / f"{name}.yaml").write_text(text)
            command = ["compose", "../old.yaml", "--out", OUT]
            self._make_old("compose", command, self.old["compose"])

    def _make_old(self, method, command, path):
        folder = self.work / "making-old"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._finish(folder, method, command)
        shutil.move(folder / OUT, path)

    def _whole(self, method):
        path = self.work / f"whole-{method}.json"
        if not path.exists():
            command = COMMANDS[method]
            first = self._folder(f"first-{method}", method)
            start = time.perf_counter()
            self._finish(first, method, command)
            seconds = time.perf_counter() - start
            second = self._folder(f"second-{method}", method)
            self._finish(second, method, command, at="-")
            facts = [facts_of(folder / OUT) for folder in (first, second)]
            whole = {
                "seconds": seconds,
                "facts": facts[0],
                "equal": facts[0] == facts[1],
                "events": _events(second),
            }
            path.write_text(json.dumps(whole))
        return json.loads(path.read_text())

    def row(self, cell: Cell, whole: dict) -> dict:
        """Kills a run, lets it go on, and says what came of it."""
        folder = self._folder(f"cell-{cell.number:02d}", cell.method)
        command = COMMANDS[cell.method]
        resume = command
        if "modularize" in command:
            resume = [*command, "--resume"]
        codes, kills = [], []
        if cell.share is not None:
            seconds = cell.share * whole["seconds"]
            while (
                self._run(folder, cell.method, command, seconds=seconds)
                != KILLED
            ):
                seconds *= 0.8  # The machine was faster than before.
                folder = self._folder(folder.name, cell.method)
            codes.append(KILLED)
            kills.append({"kind": "time", "seconds": round(seconds, 2)})
        for number, at in enumerate(cell.events):
            given = resume if number else command
            codes.append(self._run(folder, cell.method, given, at=at))
            kills += _events(folder) or [{"kind": "none, it ended before"}]
        found = self._found(folder, cell.method)
        codes.append(self._run(folder, cell.method, resume))
        # Without a run to go on with, a complete store is left as it is.
        is_late = found == {"store": "new", "run": False}
        left = sorted(path.name for path in folder.iterdir())
        if is_late and not any(folder.glob(f"{RUN}/*")):
            left = [name for name in left if name != RUN]
        return {
            "cell": cell.number,
            "method": cell.method,
            "kills": kills,
            "found": found,
            "exit_codes": codes,
            "left": left,
            "lost": cell.method in self.old and found["store"] == "none",
            "half_written": found["store"] == "broken",
            "equal": facts_of(folder / OUT) == whole["facts"]
            and codes[-1] in ((0, 2) if is_late else (0,))
            and left == [OUT],
        }

    def _found(self, folder, method):
        """What a kill left: an output or none, and a run or none."""
        old = facts_of(self.old[method]) if method in self.old else None
        found = facts_of(folder / OUT)
        aside = [facts_of(path) for path in folder.glob(f".{OUT}.old-*")]
        if found is not None:
            store = "old" if found == old else "new"
        elif (folder / OUT).exists():
            store = "broken"
        else:
            store = "old, aside" if old and old in aside else "none"
        return {"store": store, "run": (folder / RUN / "run.json").exists()}

    def _folder(self, name, method):
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".err").unlink(missing_ok=True)
        folder.mkdir()
        if method in self.old:
            shutil.copytree(self.old[method], folder / OUT)
        return folder

    def _finish(self, folder, method, command, at=None):
        code = self._run(folder, method, command, at)
        if code != 0:
            raise SystemExit(f"A run that nothing cut short exited with {code}")

    def _run(self, folder, method, command, at=None, seconds=None):
        """Runs the command and returns its exit code.

        With `at`, under watch; with `seconds`, killed after that time.
        """
        log, errors = folder.with_suffix(".log"), folder.with_suffix(".err")
        errors.touch()
        if at is not None:
            log.unlink(missing_ok=True)
        asked = {
            "folder": str(folder),
            "log": None if at is None else str(log),
            "at": None if at == "-" else at,
            "exchanges": method != "two renames",
            "errors": str(errors),
            "words": command,
            "seconds": seconds,
        }
        if not hasattr(self._servers, "process"):
            self._servers.process = subprocess.Popen(
                [sys.executable, __file__, "serve"],
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        server = self._servers.process
        server.stdin.write(f"{json.dumps(asked)}\n")
        server.stdin.flush()
        return int(server.stdout.readline())


def _events(folder):
    with open(folder.with_suffix(".log")) as log:
        return [json.loads(row) for row in log]


def facts_of(path: Path) -> dict | None:
    """Returns what makes a store or a model the same, `None` if not whole."""
    import kmod
    from kmod.graph.content import content_digest

    try:
        if (path / "composition.yaml").exists():
            model = kmod.load(path)
            return {model.name: [content_digest(model), *model.class_names]}
        store = kmod.load_store(path)
    except kmod.ArtifactError:
        return None
    contents = {name: store.content(name) for name in store}
    return {"contents": contents, "metrics": store.manifest.metrics}


def train_source(
    path: Path, seed: int = 0, classes: Sequence[int] = range(10)
) -> dict:
    """Trains a small model on digits of some classes."""
    import keras

    from kmod.data.load import load_data
    from kmod.data.subsets import class_subset

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv_1"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_2"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_3"),
            keras.layers.Flatten(),
            keras.layers.Dense(
                len(classes), activation="softmax", name="classes"
            ),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), loss)
    train = class_subset(load_data("digits").train, list(classes))
    model.fit(train.images, train.labels, 32, epochs=8, verbose=0)
    model.save(path)
    return {}


def cells_of(wholes: dict, seed: int) -> list[Cell]:
    """Draws the cells: events of all kinds, and times."""
    cells = []
    for method, (once, twice, timed) in CELLS.items():
        draw = random.Random(f"{seed} {method}")
        events = wholes[method]["events"]
        if method in AIMED:
            events = [e for e in events if (e["kind"], e["when"]) in WORST]
        events = _spread(events, once + twice, draw)
        chosen = [(event,) for event in events]
        for index in range(once, once + twice):
            # What goes on does less, so an early event comes for sure.
            chosen[index] += (draw.randrange(40),)
        for given in chosen:
            cells.append(Cell(len(cells), method, given))
        for _ in range(timed):
            share = draw.uniform(0.3, 1)
            cells.append(Cell(len(cells), method, share=share))
    return cells


def _spread(events, count, draw):
    """Chooses events from as many kinds of files and changes as there are."""
    groups = {}
    for event in events:
        groups.setdefault(_sort_of(event), []).append(event["event"])
    order = sorted(groups, key=lambda g: (g[:2] not in WORST, draw.random()))
    chosen = []
    while len(chosen) < count:
        for key in order[: count - len(chosen)]:
            chosen.append(draw.choice(groups[key]))
    return chosen


def _sort_of(event):
    file = re.sub(r"[0-9a-f]{16}|\d+", "#", event["file"])
    if event["kind"] in ("fsync", "unlink", "rmdir"):
        file = file.split("/")[0]
    return event["kind"], event["when"], file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("kills-work"))
    args = parser.parse_args()
    bench = Bench(args.work)
    wholes = bench.prepare()
    cells = cells_of(wholes, args.seed)
    rows = {row["cell"]: row for row in read_result(NAME).get("rows", [])}
    lock = threading.Lock()

    def run(cell):
        row = bench.row(cell, wholes[cell.method])
        with lock:
            rows[cell.number] = row
            write_result(NAME, _result(args, wholes, rows))

    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(run, (c for c in cells if c.number not in rows)))
    print(json.dumps(read_result(NAME)["summary"], indent=1))


def _result(args, wholes, rows):
    done = [rows[number] for number in sorted(rows)]
    return {
        "command": f"python benchmarks/kills.py --seed {args.seed}",
        "machine": machine(),
        "arguments": {
            name: " ".join(words) for name, words in COMMANDS.items()
        },
        "summary": {
            "cells": len(done),
            "equal": sum(row["equal"] for row in done),
            "lost": sum(row["lost"] for row in done),
            "half_written": sum(row["half_written"] for row in done),
            "kills": sum(row["exit_codes"].count(KILLED) for row in done),
            "kills_at_worst_moments": sum(
                (kill["kind"], kill.get("when")) in WORST
                for row in done
                for kill in row["kills"]
            ),
            "uninterrupted_runs_equal": {
                method: whole["equal"] for method, whole in wholes.items()
            },
        },
        "rows": done,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["source"]:
        train_source(Path(sys.argv[2]), classes=list(map(int, CLASSES)))
    else:
        main()
