import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from kmod.cli.main import main
from kmod.composition.saving import load
from kmod.files import claimed
from kmod.modules.module_store import load_store

pytestmark = pytest.mark.long

# The driver leaves what it has imported behind, to be looked at.
DRIVE = """
import json, sys
from kmod.cli.main import main
code = main(sys.argv[2:])
imported = [n for n in ("tensorflow", "keras", "ray") if n in sys.modules]
open(sys.argv[1], "w").write(json.dumps(imported))
sys.exit(code)
"""
OPTIONS = """
  epochs: 1
  batch_size: 256
  frozen: true
  for: alone
  classes: [3, 8, 9]
"""
HEAD = f"version: 1\nout: stores\ndata: {{name: digits}}\noptions:{OPTIONS}"


@pytest.fixture(scope="module")
def listed(three_path, tmp_path_factory):
    """Writes a job list beside the model of three digits."""

    def listed(*sources):
        folder = tmp_path_factory.mktemp("jobs")
        shutil.copyfile(three_path, folder / "three.keras")
        rows = "".join(f"  - {{model: three.keras, {s}}}\n" for s in sources)
        (folder / "jobs.yaml").write_text(f"{HEAD}sources:\n{rows}")
        return folder / "jobs.yaml"

    return listed


@pytest.fixture(scope="module")
def sequential(listed):
    """Runs two sources, one of them in shards, and says what was printed."""
    path = listed("store: whole", "store: parts, shards: 2")
    imported = path.with_name("imported.json")
    command = [sys.executable, "-c", DRIVE, imported, "jobs", path, "--json"]
    done = subprocess.run(
        [*command, "--threads", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return path, json.loads(done.stdout), json.loads(imported.read_text())


def contents(folder):
    """What the stores of a folder are, and the names of all else in it."""
    return {
        path.name: load_store(path).manifest.content_digest
        for path in sorted(folder.iterdir())
    }


def test_every_task_is_done_and_the_driver_imports_no_framework(sequential):
    path, rows, imported = sequential
    names = "whole", "parts masks", "parts 1/2", "parts 2/2", "parts"
    assert [row["task"] for row in rows] == list(names)
    assert {row["state"] for row in rows} == {"made"}
    assert len({row["place"] for row in rows}) == 1  # One worker for all.
    assert rows[0]["accuracy"] == rows[-1]["accuracy"] > 0.5
    assert imported == []
    assert set(contents(path.parent / "stores")) == {"whole", "parts"}


def test_merged_shards_are_the_store_that_is_cut_at_once(sequential):
    path, *_ = sequential
    whole, parts = (
        load_store(path.parent / "stores" / name) for name in ("whole", "parts")
    )
    assert parts.manifest.content_digest == whole.manifest.content_digest
    assert parts.familiarity.num_images == whole.familiarity.num_images
    assert parts["8"].model.output_shape == (None, 1)


def test_what_is_there_is_kept_and_what_changed_is_said(sequential, capsys):
    path, *_ = sequential
    before = contents(path.parent / "stores")
    assert main(["jobs", str(path)]) == 0
    table = capsys.readouterr().out
    assert table.count("kept") == 2 and "%" in table
    text = path.read_text()
    path.write_text(text.replace("epochs: 1", "epochs: 2"))
    assert main(["jobs", str(path)]) == 2
    assert "must be new or empty" in capsys.readouterr().err
    path.write_text(text)
    assert contents(path.parent / "stores") == before


def test_a_failed_task_is_named_and_the_others_are_there(listed, capsys):
    bad = "store: bad, options: {mask_from: nonsense}"
    path = listed(bad, "store: many, shards: 4", "store: ours", "store: good")
    stores = path.parent / "stores"
    stores.mkdir()
    with claimed(stores / "ours"):  # As another call does that makes it.
        command = ["jobs", str(path), "--threads", "1", "--json"]
        assert main(command) == 1
    out, err = capsys.readouterr()
    rows = {row["task"]: row for row in json.loads(out)}
    states = {name: row["state"] for name, row in rows.items()}
    assert states["ours"] == "failed"
    assert f"locked by process {os.getpid()}." in rows["ours"]["fault"]
    assert states["bad"] == states["many masks"] == "failed"
    assert states["many 1/4"] == states["many"] == "left out"
    assert "`shards` must be at most the number of classes, 3." in err
    assert "nonsense" in err and "8 of 9 tasks failed or were left" in err
    assert list(contents(stores)) == ["good"]


def test_models_are_made_of_the_stores_of_the_list(listed, weak, capsys):
    path = listed("store: whole")
    folder = path.parent
    weak.save(folder / "weak.keras")
    three = "classes: [3, 8, 9]"
    path.write_text(
        f"{path.read_text()}models: built\n"
        "patches:\n"
        "  - model: weak.keras\n"
        "    donors: [stores/whole]\n"
        f"    options: {{target_classes: [8], {three}}}\n"
        "  - {model: weak.keras, name: worse, donors: [stores/whole],\n"
        f"     options: {{target_classes: [7], {three}}}}}\n"
        "choices:\n"
        "  - {name: few, classes: [8, 9], stores: [stores/whole]}\n"
    )
    command = ["jobs", str(path), "--threads", "1", "--json"]
    for state in "made", "kept":
        assert main(command) == 1
        out, err = capsys.readouterr()
        rows = {row["task"]: row for row in json.loads(out)}
        assert rows["patch weak"]["state"] == state
        assert rows["choose few"]["state"] == state
        assert rows["patch weak"]["accuracy"] > 0.6
        # Another try would not change that there is no such class.
        assert rows["patch worse"]["state"] == "failed"
        assert rows["patch worse"]["tries"] == 1
        assert "'7'" in rows["patch worse"]["fault"]
        assert "1 of 4 tasks failed" in err
    made = sorted(each.name for each in (folder / "built").iterdir())
    assert made == ["few", "few.yaml", "weak"]
    assert load(folder / "built" / "weak").class_names == ("3", "8", "9")
    assert load(folder / "built" / "few").class_names == ("8", "9")


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)
def test_a_node_killed_in_the_middle_changes_nothing(
    sequential, listed, monkeypatch
):
    from ray.cluster_utils import Cluster

    # Else other processes of this machine go before the workers.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    first, *_ = sequential
    path = listed("store: whole", "store: parts, shards: 2")
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    victim = cluster.add_node(num_cpus=1)
    stores = path.parent / "stores"

    def kill():
        while not list(stores.glob(".*.tmp-*")):
            time.sleep(0.05)  # Until something is half-written.
        cluster.remove_node(victim)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        assert main(["jobs", str(path), "--ray", cluster.address]) == 0
        thread.join()
    finally:
        cluster.shutdown()
    assert contents(stores) == contents(first.parent / "stores")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "store: a, options: {population: 4}",
            "jobs.yaml:11:5: `population` belongs to `method cnnsplitter`",
            id="other-method",
        ),
        pytest.param(
            "store: a, data: {path: nowhere}", "which does not exist", id="data"
        ),
    ],
)
def test_wrong_lists_are_refused_before_any_work(
    listed, source, message, capsys
):
    path = listed(source)
    assert main(["jobs", str(path)]) in (2, 3)
    assert message in capsys.readouterr().err
    assert not (path.parent / "stores").exists()
