import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import data_digest
from kmod.files import run_directory
from kmod.files.run_directory import discard_run
from kmod.files.run_directory import open_run
from kmod.files.run_directory import run_digest

FACTS = {"source model": "sha256:1", "epochs": 3, "recipe": {"penalty": 0.1}}


def save(run, number):
    weights = np.full(4, number, "float32")
    run.save("epoch", number, {"loss": [number / 3]}, {"weights": weights})


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def run(tmp_path):
    """A run with three epochs done."""
    run = open_run(tmp_path / "run", FACTS, resume=False)
    for number in (1, 2, 3):
        save(run, number)
    return run


def test_checkpoint_is_read_as_it_was_written(run):
    again = open_run(run.path, FACTS, resume=True).latest("epoch")
    assert again.number == 3
    assert again.data == {"loss": [1.0]}
    assert again.arrays["weights"].dtype == "float32"
    np.testing.assert_array_equal(again.arrays["weights"], [3, 3, 3, 3])


def test_last_two_checkpoints_of_each_stage_stay(run):
    run.save("generation", 0, {}, {})
    save(run, 4)
    stages = [name.rsplit("-", 1)[0] for name in names(run.path)]
    assert stages == ["epoch-0003", "epoch-0004", "generation-0000", "run.json"]


def test_numpy_numbers_become_plain_ones(run):
    run.save("epoch", 4, {"loss": [np.float32(0.5)], "kept": np.arange(2)}, {})
    assert run.latest("epoch").data == {"loss": [0.5], "kept": [0, 1]}


def cut_half(content):
    return content[: len(content) // 2]


def flip_bit(content):
    middle = len(content) // 2
    return (
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    )


@pytest.mark.parametrize(
    "damage",
    [cut_half, flip_bit, lambda content: b""],
    ids=["cut", "bit", "no"],
)
def test_damaged_checkpoint_gives_way_to_the_one_before(run, damage):
    newest = run.path / names(run.path)[1]
    assert newest.name.startswith("epoch-0003")
    newest.write_bytes(damage(newest.read_bytes()))
    resumed = open_run(run.path, FACTS, resume=True)
    assert resumed.latest("epoch").number == 2
    save(resumed, 3)
    assert resumed.latest("epoch").number == 3
    assert len(names(run.path)) == 3


def test_checkpoint_of_another_run_is_not_used(run):
    newest = run.path / names(run.path)[1]
    content = newest.read_bytes()
    again = open_run(run.path, FACTS, resume=False)
    assert again.latest("epoch") is None
    newest.write_bytes(content)
    assert again.latest("epoch") is None
    assert open_run(run.path, FACTS, resume=True).latest("epoch") is None


def test_renamed_checkpoint_is_not_used(run):
    *_, newest, _ = names(run.path)
    os.rename(run.path / newest, run.path / newest.replace("3", "9", 1))
    assert run.latest("epoch").number == 2


def test_pickles_are_refused(run):
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array([object()]))
    digest = run_directory._digest(buffer.getvalue())
    forged = run.path / f"epoch-0004-{digest}.npz"
    forged.write_bytes(buffer.getvalue())
    assert run.latest("epoch").number == 3


class Snapshots:
    """Copies a directory at every moment that its files change.

    Each copy is what a process leaves that is killed then. Half of what a
    file will hold is a moment, too.
    """

    def __init__(self, directory, folder, monkeypatch):
        self.directory, self.folder = directory, folder
        self.taken = []
        for owner, name in ((os, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self.around(getattr(owner, name)))
        # A bound method gets no path, so a function stands in between.
        monkeypatch.setattr(
            Path, "write_bytes", lambda path, data: self.write_half(path, data)
        )

    def take(self):
        copy = self.folder / f"{len(self.taken):03d}"
        shutil.copytree(self.directory, copy)
        self.taken.append(copy)

    def around(self, change):
        def wrapped(*args, **options):
            self.take()
            change(*args, **options)
            self.take()

        return wrapped

    def write_half(self, path, content):
        for part in (content[: len(content) // 2], content):
            with open(path, "wb") as file:
                file.write(part)
            self.take()


@pytest.fixture
def kills(tmp_path):
    """Returns the directories that kills of a piece of work would leave."""

    def take(work, directory):
        with pytest.MonkeyPatch.context() as patches:
            folder = tmp_path / "snapshots"
            folder.mkdir()
            snapshots = Snapshots(directory, folder, patches)
            work()
            patches.undo()
        assert len(snapshots.taken) > 5
        return snapshots.taken

    return take


def test_any_kill_leaves_a_run_that_goes_on(tmp_path, kills):
    directory = tmp_path / "run"

    def work():
        run = open_run(directory, FACTS, resume=False)
        for number in range(1, 5):
            save(run, number)

    reached = []
    for killed in kills(work, directory):
        resumed = open_run(killed, FACTS, resume=True)
        last = resumed.latest("epoch")
        reached.append(last.number if last else 0)
        save(resumed, reached[-1] + 1)
        assert resumed.latest("epoch").number == reached[-1] + 1
    assert reached == sorted(reached)
    assert set(reached) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("identity", [FACTS, {**FACTS, "epochs": 5}], ids=str)
def test_any_kill_while_a_run_begins_anew_mixes_no_runs(run, kills, identity):
    old = (run.path / "run.json").read_bytes()
    for killed in kills(lambda: open_run(run.path, identity, False), run.path):
        if (killed / "run.json").read_bytes() == old:
            assert open_run(killed, FACTS, True).latest("epoch").number == 3
        else:
            assert open_run(killed, identity, True).latest("epoch") is None


def test_any_kill_while_a_run_is_discarded_leaves_it_or_none(run, kills):
    for killed in kills(lambda: discard_run(run.path), run.path):
        last = open_run(killed, FACTS, resume=True).latest("epoch")
        assert last is None or last.number in (2, 3)
    assert not run.path.exists()


def test_new_run_begins_where_none_is_to_go_on_with(tmp_path):
    run = open_run(tmp_path / "run", FACTS, resume=True)
    assert run.latest("epoch") is None
    assert names(run.path) == ["run.json"]


def test_new_run_replaces_an_old_one(run):
    open_run(run.path, {"seed": 1}, resume=False)
    assert names(run.path) == ["run.json"]
    assert json.loads((run.path / "run.json").read_text())["identity"] == {
        "seed": 1
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"source model": "sha256:2"}, "different source model", id="digest"
        ),
        pytest.param({"epochs": 4}, "epochs 4 instead of 3", id="argument"),
        pytest.param(
            {"recipe": {"penalty": 0.2}},
            "recipe penalty 0.2 instead of 0.1",
            id="nested",
        ),
        pytest.param(
            {"epochs": 4, "source model": "sha256:2"},
            "epochs 4 instead of 3; different source model",
            id="all-at-once",
        ),
    ],
)
def test_run_with_other_facts_is_not_resumed(run, changes, message):
    before = names(run.path)
    with pytest.raises(UsageError, match=f"Received: {message}, for the run"):
        open_run(run.path, {**FACTS, **changes}, resume=True)
    assert names(run.path) == before


@pytest.mark.parametrize("resume", [False, True], ids=["new", "resume"])
@pytest.mark.parametrize(
    "name", ["mine.txt", "epoch-0001.npz", ".mine.tmp-host-1-00000000"]
)
def test_file_of_another_origin_is_refused_and_stays(run, name, resume):
    (run.path / name).write_text("mine")
    before = names(run.path)
    with pytest.raises(UsageError, match=f"holds '{name}', no file of a run"):
        open_run(run.path, FACTS, resume)
    assert names(run.path) == before


def test_directory_of_a_run_files_name_is_refused(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UsageError, match="holds 'run.json', no file of a run"):
        open_run(tmp_path, FACTS, resume=False)


def test_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UsageError, match="Received: the file '.*run'"):
        open_run(tmp_path / "run", FACTS, resume=False)


def test_discarding_leaves_files_of_another_origin(run):
    (run.path / "mine.txt").write_text("mine")
    discard_run(run.path)
    assert names(run.path) == ["mine.txt"]


@pytest.mark.parametrize(
    "damage",
    [
        cut_half,
        lambda content: b"",
        lambda content: b"\xff",
        lambda content: b"[]",
        lambda content: b"[" * 100_000,
        lambda content: content.replace(b'"epochs": 3', b'"epochs": 4'),
    ],
    ids=["cut", "empty", "no-text", "list", "deep", "edited"],
)
def test_damaged_run_file_is_named_and_a_new_run_can_begin(run, damage):
    path = run.path / "run.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match="'.*run.json', which is damaged"):
        open_run(run.path, FACTS, resume=True)
    assert open_run(run.path, FACTS, resume=False).latest("epoch") is None


def test_run_of_an_earlier_version_is_named(run):
    path = run.path / "run.json"
    begun = json.loads(path.read_text(encoding="utf-8"))
    earlier = {"facts": begun["identity"], "token": begun["token"]}
    earlier["digest"] = data_digest(earlier)
    path.write_text(json.dumps(earlier), encoding="utf-8")
    with pytest.raises(ArtifactError, match="an earlier version of kmod"):
        open_run(run.path, FACTS, resume=True)


def test_digest_of_a_run_is_that_of_its_identity(run, tmp_path):
    assert run_digest(tmp_path / "none") is None
    digest = run_digest(run.path)
    open_run(run.path, FACTS, resume=False)
    assert run_digest(run.path) == digest
    open_run(run.path, {**FACTS, "epochs": 4}, resume=False)
    assert run_digest(run.path) != digest
