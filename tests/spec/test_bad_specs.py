"""The specs of `bad/`, each with the messages it must give, and larger ones.

Beside `NAME.yaml` lies `NAME.txt`, what `kmod check NAME.yaml` prints to
stderr. The numbers are those of the list of what a spec can have wrong.
"""

import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kmod.cli.main import main
from kmod.errors import SpecError
from kmod.spec.documents import MAX_BYTES
from kmod.spec.spec_file import parse_spec

BAD = Path(__file__).parent / "bad"
# Names are text as they are written, and some of it is only worth a warning.
ACCEPTED = {
    "04-byte-order-mark-in-front",
    "23-names-that-look-like-values",
    "28-unused-store",
    "32-unicode-names",
}
HEAD = "version: 1\nname: pets\nstores: {cifar: {path: cifar}}\nclasses:\n"
CLASS = "  - {{name: {0}, module: {{store: cifar, class: {0}}}}}\n"
LARGE = {
    "09-too-large": (
        "# " + "x" * MAX_BYTES,
        ":1:1: a spec has at most 1048576 bytes. Received: more.",
    ),
    "11-open-brackets": (
        "[" * 10_000,
        ":1:33: a spec has at most 32 levels. Received: more.",
    ),
    "31-many-classes": (
        HEAD + "".join(CLASS.format(f"c{i}") for i in range(10_000)),
        ":5003:35: a spec has at most 25000 values. Received: more.",
    ),
    "31-many-faults": (
        HEAD + "".join(CLASS.format("cat") for _ in range(4_000)),
        ": 3949 more faults are not shown.",
    ),
}
# Of the processor, five times what the longest took on a slow one. Input that
# makes the check run away takes minutes.
SECONDS = 5


def names():
    return sorted(path.stem for path in BAD.glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_folder(monkeypatch):
    monkeypatch.chdir(BAD)


@pytest.mark.parametrize("name", names())
def test_messages(name, capsys):
    start = time.process_time()
    code = main(["check", f"{name}.yaml"])
    assert time.process_time() - start < SECONDS
    out, err = capsys.readouterr()
    assert err == (BAD / f"{name}.txt").read_text(encoding="utf-8")
    assert code == (0 if name in ACCEPTED else 2)
    assert bool(out) == (name in ACCEPTED)


@pytest.mark.parametrize("name", LARGE)
def test_large_spec_is_answered_at_once(name, tmp_path, capsys):
    text, message = LARGE[name]
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    start = time.process_time()
    assert main(["check", str(path)]) == 2
    assert time.process_time() - start < SECONDS
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"{path}{message}"
    assert len(err.splitlines()) <= 51


def test_every_number_of_the_list_is_there():
    found = {int(name.split("-")[0]) for name in [*names(), *LARGE]}
    assert found == set(range(1, 33))


def test_every_message_belongs_to_a_spec():
    assert sorted(path.stem for path in BAD.glob("*.txt")) == names()


def test_no_framework_and_no_traceback():
    """All of them in one new process, as a person runs the command."""
    code = (
        "import sys, glob\n"
        "from kmod.cli.main import main\n"
        "code = main(['check', *sorted(glob.glob('*.yaml'))])\n"
        "slow = {'tensorflow', 'keras', 'numpy', 'jax'} & set(sys.modules)\n"
        "sys.exit(f'{code} {slow}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stderr.endswith("\n2 set()\n")
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == len(ACCEPTED)


@pytest.mark.parametrize("name", ["13-alias-bomb", "19-unknown-key"])
def test_command_answers_within_a_second(name):
    command = [sys.executable, "-m", "kmod", "check", f"{name}.yaml"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert subprocess.run(command, capture_output=True).returncode == 2
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < SECONDS


PIECES = [
    *(b"{ } [ ] : - , & * ! | > % @ # ? \" ' ~ << --- ... &a *a !!x".split()),
    *(b"\n", b"  ", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b": ", b"1e9"),
]


def mutated(content, draw):
    """Inserts, removes and changes a few bytes."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randint(0, len(content)), draw.random()
        if kind < 0.5:
            content[place:place] = draw.choice(PIECES)
        elif kind < 0.8:
            del content[place : place + draw.randint(1, 8)]
        else:
            content[place : place + 1] = bytes([draw.randint(0, 255)])
    return bytes(content)


def test_any_bytes_are_read_or_refused():
    draw = random.Random(0)
    files = [path.read_bytes() for path in sorted(BAD.glob("*.yaml"))]
    for _ in range(1_000):
        content = mutated(draw.choice(files), draw)
        try:
            parse_spec(content, "spec.yaml")
        except SpecError:
            pass
