"""What commands leave when they crash, meet another, or write where they can't.

The numbers are those of the list of crashes, concurrency and resuming; cases
of resuming are tested where runs are.
"""

import errno
import functools
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest

from kmod.cli import compose
from kmod.cli.main import main
from kmod.composition.composition_manifest import list_composition
from kmod.files import atomic
from kmod.files import atomic_directory

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
SECONDS = 20
ERRNOS = ("ENOSPC", "EIO", "EACCES")
MOVES = ("rename", "replace", "_exchange")
# What changes files, and where it is looked up.
STEPS = {
    **{name: os for name in ("mkdir", "fsync", "rename", "replace")},
    **{name: Path for name in ("write_text", "write_bytes")},
    "_exchange": atomic,
}
COMMANDS = ("compose", "modularize", "patch", "export")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs forks, and /proc"
    ),
]


def content(path):
    """All bytes of a file, or of every file and folder below a folder."""
    if path.is_file():
        return path.read_bytes()
    return {
        each.relative_to(path): each.is_file() and each.read_bytes()
        for each in sorted(path.rglob("*"))
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class InTurn:
    """An executor without threads: a fork has none but its own."""

    def __init__(self, max_workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    map = staticmethod(map)


class Crashes:
    """Lets a command crash in every way at each of its steps, in forks.

    A step is a call that changes files below a folder. In front of each, a
    copy of the folder takes its place, and a fork crashes there; the command
    itself goes on unharmed. Moves are tried from both sides.

    Args:
        folder: The folder.
        ways: `"kill"`, `"interrupt"` and names of `errno`.
        kinds: Keys of `STEPS`.
        is_thorough: Whether steps that are no moves are tried in every way,
            too. Else in one, each in the next.
    """

    def __init__(self, folder, ways, kinds, is_thorough):
        self.folder = folder
        self.ways = ways
        self.kinds = kinds
        self.is_thorough = is_thorough
        self.rows = []
        self._end = None
        self._is_crashing = False

    def run(self, argv):
        """Runs the command to its end."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patches:
            for kind in self.kinds:
                step = self._step(kind, getattr(STEPS[kind], kind))
                patches.setattr(STEPS[kind], kind, step)
            patches.setattr(atomic, "ThreadPoolExecutor", InTurn)
            patches.setattr(sys, "stderr", said)
            patches.setattr(sys, "stdout", io.StringIO())
            code = main(argv)
        if self._end is not None:
            result = json.dumps([code, said.getvalue()])
            os.write(self._end, result.encode())
            os._exit(0)
        assert code == 0, said.getvalue()

    def _step(self, kind, change):
        def step(*args, **options):
            path = args[kind in MOVES]
            if isinstance(path, int):
                path = os.readlink(f"/proc/self/fd/{path}")
            is_step = Path(path).is_relative_to(self.folder)
            if kind == "mkdir":  # Of what is there, nobody minds an error.
                is_step &= not os.path.exists(path)
            # A training that is under way does not survive a fork.
            is_step &= not Path(path).name.startswith("epoch-")
            if self._is_crashing or not is_step:
                return change(*args, **options)
            ways = self.ways
            if kind not in MOVES and not self.is_thorough:
                ways = [ways[len(self.rows) % len(ways)]]
            for way in ways:
                self._crash(way, f"before {kind} of {Path(path).name}", path)
            result = change(*args, **options)
            if kind in MOVES and "kill" in self.ways:
                self._crash("kill", f"after {kind} to {Path(path).name}", path)
            return result

        return step

    def _crash(self, way, step, path):
        self._is_crashing = True
        spare = self.folder.with_name("spare")
        self.folder.rename(spare)
        shutil.copytree(spare, self.folder)
        receiving, sending = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._end = sending
            signal.alarm(SECONDS)  # What does work in a fork may hang.
            fail(way, None if "fsync" in step else str(path))
        os.close(sending)
        with open(receiving, "rb") as end:
            code, said = json.loads(end.read() or b"[null, null]")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        row = {"step": step, "way": way, "code": status or code, "said": said}
        row["names"] = names(self.folder)
        row["content"] = content(self.folder / "out")
        self.rows.append(row)
        shutil.rmtree(self.folder)
        spare.rename(self.folder)
        self._is_crashing = False


def fail(way, path):
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "interrupt":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)
    code = getattr(errno, way)
    raise OSError(code, os.strerror(code), path)


SPEC = """\
version: 1
name: two
stores: {digits: {path: PATH}}
classes:
  - {name: three, module: {store: digits, class: 3}}
  - {name: eight, module: {store: digits, class: 8}}
"""
CLASSES = ("3", "8", "9")


@pytest.fixture(scope="module")
def twins(three, blind, store_of):
    """Two stores of the same classes and different weights."""
    return [store_of(model, CLASSES) for model in (three, blind(three, 1))]


@pytest.fixture(scope="module")
def spec_path(twins):
    path = twins[0].path.parent / "spec.yaml"
    path.write_text(SPEC.replace("PATH", twins[0].path.name))
    return path


@pytest.fixture(scope="module")
def composed(twins, tmp_path_factory):
    """A composed model that is not the one of the spec."""
    folder = tmp_path_factory.mktemp("composed")
    text = SPEC.replace("PATH", os.path.relpath(twins[1].path, folder))
    (folder / "spec.yaml").write_text(text)
    argv = ["compose", str(folder / "spec.yaml")]
    assert main([*argv, "--out", str(folder / "out")]) == 0
    return folder / "out"


def crashed(folder, argv, *given):
    """Returns what every crash of a command left, and what the command did."""
    crashes = Crashes(folder, *given)
    out = ["--out", str(folder / "out")]
    crashes.run([*argv, *out])
    assert names(folder) == ["out"]
    return crashes.rows, content(folder / "out")


@pytest.fixture(scope="module")
def replaced(commands, composed, tmp_path_factory):
    """What crashes leave where a composed model is replaced."""
    folder = tmp_path_factory.mktemp("replaced") / "folder"
    shutil.copytree(composed, folder / "out")
    old = content(folder / "out")
    ways = ("kill", "interrupt", *ERRNOS)
    argv = [*commands["compose"], "--overwrite"]
    return *crashed(folder, argv, ways, STEPS, True), old


@pytest.fixture(scope="module")
def commands(twins, spec_path, composed, three, three_path, blind, saved):
    """What each command is given, but for `--out` and its value."""
    weak = saved(blind(three, 1), "weak")
    classes = ["--classes", ",".join(CLASSES)]
    patch = ["--donor", str(twins[0].path), "--target-class", "8", *classes]
    patch += [
        "--data",
        "digits:validation",
        "--no-auxiliary",
        "--combine",
        "raw",
    ]
    search = ["--data", "digits", *classes, "--mask-from", "conv_2"]
    search += ["--epochs", "1", "--batch-size", "256", "--frozen"]
    return {
        "compose": ["compose", str(spec_path), "--format", "keras"],
        "modularize": ["modularize", str(three_path), *search],
        "patch": ["patch", str(weak), *patch],
        "export": ["export", str(composed), "--format", "savedmodel"],
    }


@pytest.fixture(scope="module")
def first(commands, tmp_path_factory):
    """What errors leave where a command makes something new."""

    @functools.cache
    def first(name):
        folder = tmp_path_factory.mktemp(name) / "folder"
        folder.mkdir()
        kinds = ("mkdir", *MOVES)
        ways = ("kill", *ERRNOS)
        return crashed(folder, commands[name], ways, kinds, False)

    return first


def of_way(rows, *ways):
    rows = [row for row in rows if row["way"] in ways]
    assert rows
    return rows


def test_c01_kill_at_any_step_leaves_the_old_or_the_new(replaced):
    rows, new, old = replaced
    rows = of_way(rows, "kill")
    assert {row["code"] for row in rows} == {-signal.SIGKILL}
    found = [row["content"] for row in rows]
    assert all(each in (old, new) for each in found)
    assert found[0] == old and found[-1] == new
    assert len(rows) > 15


@pytest.mark.parametrize("name", COMMANDS)
def test_c02_kill_of_a_first_save_leaves_nothing_to_inspect(first, name):
    rows, new = first(name)
    found = [row["content"] for row in of_way(rows, "kill")]
    assert all(each in ({}, new) for each in found)
    assert found[0] == {} and found[-1] == new


def test_c03_interrupt_leaves_nothing_beside_the_output(replaced):
    rows, new, old = replaced
    for row in of_way(rows, "interrupt"):
        assert (row["code"], row["said"]) == (130, "kmod: interrupted.\n")
        assert row["names"] == ["out"]
        assert row["content"] in (old, new)


def is_clean(row, *possible):
    """Checks what an error of the disk left, and that it is named."""
    assert row["code"] == 3, row
    (line,) = row["said"].splitlines()
    assert line.startswith("kmod: /") and "/folder/" in line, row
    assert line.endswith(f": {os.strerror(getattr(errno, row['way']))}.")
    assert set(row["names"]) <= {"out", ".out.run"}, row
    assert row["content"] in possible


@pytest.mark.parametrize("name", COMMANDS)
def test_c04_disk_full(first, name):
    rows, new = first(name)
    for row in of_way(rows, "ENOSPC"):
        is_clean(row, {})


@pytest.mark.parametrize("name", COMMANDS)
def test_c05_error_of_the_disk_or_no_permission(first, name):
    rows, new = first(name)
    for row in of_way(rows, "EIO", "EACCES"):
        is_clean(row, {})


def test_c07_error_at_any_step_leaves_the_old_or_the_new(replaced):
    rows, new, old = replaced
    rows = of_way(rows, *ERRNOS)
    for row in rows:
        is_clean(row, old, new)
    kinds = {row["step"].split()[1] for row in rows}
    assert {"mkdir", "write_text", "fsync", "_exchange"} <= kinds


def test_c04_file_that_may_not_grow(commands, tmp_path):
    """As on a full disk, writing fails in the middle of a file."""
    limit = resource.RLIMIT_FSIZE, (20480, 20480)
    out = ["--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "kmod", *commands["modularize"], *out],
        preexec_fn=functools.partial(resource.setrlimit, *limit),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert re.fullmatch(
        f"kmod: {tmp_path}/.*: File too large.\n", done.stderr
    ), done.stderr
    assert names(tmp_path) == [".out.run"]


@pytest.mark.parametrize("name", COMMANDS)
def test_c06_read_only_output_is_refused_before_any_work(
    commands, name, tmp_path, monkeypatch, capsys
):
    def refusing(function):
        def refuse(path, *args, **options):
            if Path(path).is_relative_to(tmp_path):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return function(path, *args, **options)

        return refuse

    def load_model(*_, **__):
        pytest.fail("the work began")

    for function in ("open", "mkdir"):  # Whatever the user may write.
        patched = refusing(getattr(os, function))
        monkeypatch.setattr(os, function, patched)
    monkeypatch.setattr(keras.saving, "load_model", load_model)
    out = tmp_path / "out"
    assert main([*commands[name], "--out", str(out)]) == 3
    assert capsys.readouterr().err == f"kmod: {out}: Read-only file system.\n"


def test_c08_second_of_two_composes_to_one_output_is_refused(
    commands, tmp_path, monkeypatch, capsys
):
    argv = [*commands["compose"], "--out", str(tmp_path / "out")]
    build, seconds = compose._build, []

    def run_second(*given):
        command = [sys.executable, "-m", "kmod", *argv]
        seconds.append(subprocess.run(command, capture_output=True, text=True))
        return build(*given)

    monkeypatch.setattr(compose, "_build", run_second)
    assert main(argv) == 0
    (second,) = seconds
    assert second.returncode == 3
    assert second.stderr == (
        "kmod: One process at a time makes an output. Received: "
        f"'{tmp_path}/out', locked by process {os.getpid()}. Wait until that "
        "ends, or choose another name.\n"
    )
    assert names(tmp_path) == ["out"]
    assert main(["inspect", str(tmp_path / "out")]) == 0


def test_c10_what_a_dead_process_claimed_is_free(commands, tmp_path):
    out = tmp_path / "out"
    pid = os.fork()
    if pid == 0:
        with atomic_directory(out) as temporary:
            (temporary / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    claim, temporary = names(tmp_path)
    assert claim == ".out.claim" and f"-{pid}-" in temporary
    assert main([*commands["compose"], "--out", str(out)]) == 0
    assert names(tmp_path) == ["out"]


def test_c11_reader_sees_the_old_or_the_new(tmp_path, capsys):
    out = tmp_path / "out"
    is_over = threading.Event()

    def replace(name):
        with atomic_directory(out, True, list_composition) as temporary:
            shutil.copytree(GOLDEN / name, temporary, dirs_exist_ok=True)

    def replace_always():
        while not is_over.is_set():
            replace("slim")
            replace("two")

    replace("two")
    writer = threading.Thread(target=replace_always)
    writer.start()
    seen = []
    try:
        while len(seen) < 60 or len(set(seen)) < 2 and len(seen) < 6000:
            assert main(["inspect", str(out), "--json"]) == 0
            figures = json.loads(capsys.readouterr().out)
            seen.append(bool(figures["slimmed"]))
    finally:
        is_over.set()
        writer.join()
    assert set(seen) == {False, True}


def test_c12_source_that_is_replaced_meanwhile_is_not_mixed(
    twins, tmp_path, monkeypatch, capsys
):
    store = shutil.copytree(twins[0].path, tmp_path / "store")
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.replace("PATH", "store"))
    load_plan = compose.load_plan

    def plan_and_replace(path):
        planned = load_plan(path)
        shutil.rmtree(store)
        shutil.copytree(twins[1].path, store)
        return planned

    monkeypatch.setattr(compose, "load_plan", plan_and_replace)
    argv = ["compose", str(spec), "--out", str(tmp_path / "out")]
    assert main(argv) == 4
    said = capsys.readouterr().err
    assert "its digest is not the one in the store's manifest" in said
    assert names(tmp_path) == ["spec.yaml", "store"]
    monkeypatch.undo()
    assert main([*argv, "--format", "keras"]) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("with space", id="space"),
        pytest.param("ünï/中文", id="non-ascii"),
        pytest.param("/".join(["n" * 180] * 5), id="long"),
        pytest.param("./a/../out", id="relative"),
        pytest.param(".", id="working-directory"),
    ],
)
def test_c17_paths(commands, name, tmp_path, monkeypatch, capsys):
    (tmp_path / "here/a").mkdir(parents=True)
    (tmp_path / "here/a").rmdir() if name == "." else None
    monkeypatch.chdir(tmp_path / "here")
    argv = [*commands["compose"], "--out", name]
    assert main(argv) == 0
    monkeypatch.chdir(tmp_path / "here")
    assert main(["inspect", name]) == 0
    if name == ".":
        assert main([*argv, "--overwrite"]) == 0


def test_c18_what_is_moved_still_loads(
    twins, composed, first, tmp_path, monkeypatch, capsys
):
    _, exported = first("export")
    for path in (twins[0].path, composed):
        shutil.copytree(path, tmp_path / "new" / path.name)
    for found in (exported, content(tmp_path / "new")):
        for file, data in found.items():
            assert not data or b"/pytest-" not in data, file
    monkeypatch.chdir(tmp_path / "new")
    assert main(["test", "store"]) == 0
    monkeypatch.chdir("/")
    assert main(["test", str(tmp_path / "new/out")]) == 0


def test_every_number_of_the_list_is_there():
    tests = "\n".join(p.read_text() for p in TESTS.rglob("test_*.py"))
    found = set(re.findall(r"^def test_c(\d\d)_", tests, re.MULTILINE))
    assert found == {f"{number:02}" for number in range(1, 19)}
