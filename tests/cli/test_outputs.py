"""No command loses a file of the user's, whatever its `--out` holds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kmod.cli import demo
from kmod.cli.main import main
from kmod.composition.composer import compose
from kmod.composition.saving import save
from kmod.demo import pipeline
from kmod.files import check_output
from kmod.spec.spec_file import write_spec

pytestmark = pytest.mark.long

# Imports once and runs every command in a fork, which is killed when all is
# written and nothing has its name yet. The demo has its source model.
KILLED = """
import json, os, signal, sys
import tensorflow
import kmod.composition.composer
from kmod.cli.main import main
from kmod.demo import pipeline
from kmod.files import atomic

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

atomic._move_into_place = os.replace = pipeline.modularize = die
pipeline.train_source = lambda *_, **__: None
signals = []
for command in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os._exit(main(command))
    signals.append(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(signals))
"""
# Names that kmod gives its own files, as a user might have them.
OUR_NAMES = (
    "composition.yaml",
    "store.yaml",
    "export.yaml",
    "demo.yaml",
    "source.keras",
    "weak.keras",
    "all-classes.yaml",
    "modules/notes.txt",
    "saved_model.pb",
)


@pytest.fixture(scope="module")
def binary_path(strong, tmp_path_factory):
    """A model of two outputs: all digits but 9, and 9."""
    logits = keras.layers.Dense(2, activation="softmax", name="two")
    model = keras.Model(
        strong.inputs[0], logits(strong.get_layer("pool").output)
    )
    kernel, bias = strong.get_layer("logits").get_weights()
    rest = kernel[:, :2].mean(axis=1), bias[:2].mean()
    logits.set_weights(
        [np.stack([rest[0], kernel[:, 2]], 1), np.array([rest[1], bias[2]])]
    )
    path = tmp_path_factory.mktemp("binary") / "binary.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def commands(strong, weak, donor, binary_path, tmp_path_factory):
    """What each command is given, but for `--out` and its value."""
    folder = tmp_path_factory.mktemp("given")
    spec = folder / "spec.yaml"
    write_spec(
        {
            "version": 1,
            "name": "two",
            "stores": {"digits": {"path": donor.path}},
            "classes": [
                {"name": name, "module": {"store": "digits", "class": name}}
                for name in ("8", "3")
            ],
        },
        spec,
    )
    save(compose(spec), folder / "two")
    strong.save(folder / "strong.keras")
    weak.save(folder / "weak.keras")
    data = ["--data", "digits", "--classes", ",".join(donor.class_names)]
    search = [*data, "--epochs", "1", "--batch-size", "256"]
    classes = ["--class", "8", "--class", "3", "--store", str(donor.path)]
    patch = ["--donor", str(donor.path), "--target-class", "8"]
    patch += ["--no-auxiliary"]
    held_out = ["--data", "digits:validation", *data[2:]]
    source = str(folder / "strong.keras")
    student = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    student.save(folder / "student.keras")
    distil = ["--student", str(folder / "student.keras"), *data[:2]]
    distil += ["--limit", "20", "--epochs", "1"]
    return {
        "demo": ["demo"],
        "modularize": ["modularize", source, *search, "--frozen"],
        "refine": ["refine", str(donor.path), source, *search],
        "import": ["import", str(binary_path), "--class", "9", *data[:2]],
        "dependence": ["dependence", str(donor.path), *held_out],
        "choose": ["choose", *classes, *held_out[:2]],
        "compose": ["compose", str(spec), "--format", "keras"],
        "distil": ["distil", str(folder / "two"), *distil],
        "patch": ["patch", str(folder / "weak.keras"), *patch, *held_out],
        "slim": ["slim", source, *data, "--epochs", "1"],
        "export": ["export", str(folder / "two"), "--format", "savedmodel"],
        "report": ["report", str(folder / "two")],
    }


NAMES = (
    "demo modularize refine import dependence choose compose distil patch slim "
    "export report".split()
)


@pytest.fixture(scope="module")
def results(commands, tmp_path_factory):
    """Makes a command's genuine result once, and says where it lies.

    Of the demo only how its directory is written and sealed is genuine.
    """
    folder = tmp_path_factory.mktemp("results")
    known = {}

    def write_source(begun):
        begun._new_model(0.25).save(begun.out / "source.keras")
        return {}

    def make(name):
        if name not in known:
            known[name] = folder / name
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline._Demo, "run", write_source)
                patch.setattr(pipeline, "write_demo_report", lambda *_: None)
                patch.setattr(demo, "_print_summary", lambda *_: None)
                run(commands, name, known[name], 0)
        return known[name]

    return make


def run(commands, name, out, exit_code, *more):
    assert main([*commands[name], "--out", str(out), *more]) == exit_code


def content(folder):
    """All bytes of a file, or of every file and folder below a folder."""
    if folder.is_file():
        return folder.read_bytes()
    return {
        path.relative_to(folder): path.is_file() and path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(params=["foreign", "with-our-names"])
def users_folder(request, tmp_path):
    out = tmp_path / "out"
    names = OUR_NAMES if request.param == "with-our-names" else ("a/cat.jpg",)
    for name in ("thesis.txt", *names):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("dear")
    return out


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=len)
@pytest.mark.parametrize("name", NAMES)
def test_c16_users_folder_stays_as_it_is(
    commands, name, overwrite, users_folder, capsys
):
    before = content(users_folder.parent)
    run(commands, name, users_folder, 2, *overwrite)
    assert content(users_folder.parent) == before
    assert f"Received: '{users_folder}'" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=len)
@pytest.mark.parametrize("name", NAMES)
def test_users_file_stays_as_it_is(commands, name, overwrite, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("dear")
    run(commands, name, tmp_path / "thesis.txt", 2, *overwrite)
    assert content(tmp_path) == {Path("thesis.txt"): b"dear"}
    assert "thesis.txt" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=len)
def test_chosen_model_does_not_replace_a_users_folder(
    commands, overwrite, users_folder, capsys
):
    before = content(users_folder.parent)
    spec = users_folder.with_name("spec.yaml")
    more = ("--compose", str(users_folder), *overwrite)
    run(commands, "choose", spec, 2, *more)
    assert content(users_folder.parent) == before
    assert f"Received: '{users_folder}'" in capsys.readouterr().err


def test_picture_is_replaced_until_it_is_touched(commands, tmp_path, capsys):
    spec, picture = tmp_path / "spec.yaml", tmp_path / "frontier.svg"
    more = "--overwrite", "--plot", str(picture)
    picture.write_text("dear")
    run(commands, "choose", spec, 2, *more)
    assert content(tmp_path) == {Path("frontier.svg"): b"dear"}
    picture.unlink()
    run(commands, "choose", spec, 0, *more)
    run(commands, "choose", spec, 0, *more)
    before = content(tmp_path)
    run(commands, "choose", tmp_path / "other.yaml", 2, *more[1:])
    assert content(tmp_path) == before
    picture.write_text(picture.read_text().replace("#ffffff", "#000000"))
    before = content(tmp_path)
    run(commands, "choose", spec, 2, *more)
    assert content(tmp_path) == before
    assert f"Received: '{picture}'" in capsys.readouterr().err


def test_no_picture_is_written_into_an_artifact(commands, donor, tmp_path):
    before = content(donor.path)
    more = "--plot", str(donor.path / "new.svg")
    run(commands, "choose", tmp_path / "spec.yaml", 2, *more)
    assert content(donor.path) == before
    assert content(tmp_path) == {}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_into_an_artifact(commands, name, donor, capsys):
    before = content(donor.path)
    run(commands, name, donor.path / "new", 2)
    module = donor.path / "3" / "new"
    more = ("--serving",) if name == "export" else ()
    run(commands, name, module, 2, *more)
    assert content(donor.path) == before
    assert f"inside '{donor.path}'" in capsys.readouterr().err


def test_spec_with_the_name_of_a_manifest_is_no_artifact(tmp_path):
    (tmp_path / "store.yaml").write_text("version: 1\nname: store\n")
    check_output(tmp_path / "built")


def touch(path):
    """What a user does to a result: writes into a file, or puts one there."""
    if path.is_file():
        path.write_text(path.read_text() + "# mine\n")
    else:
        (path / "thesis.txt").write_text("dear")


@pytest.mark.parametrize("name", NAMES)
def test_result_is_replaced_until_it_is_touched(
    commands, results, name, capsys
):
    out = results(name)
    # These take long, and are let replace it where they are killed, below.
    if name not in ("demo", "modularize", "refine"):
        run(commands, name, out, 0, "--overwrite")
    before = content(out.parent)
    run(commands, name, out, 2)
    assert content(out.parent) == before
    touch(out)
    before = content(out.parent)
    run(commands, name, out, 2, "--overwrite")
    assert content(out.parent) == before
    said = capsys.readouterr().err
    assert "'thesis.txt' was added" in said or "which is another" in said
    if out.is_dir():
        (out / "thesis.txt").unlink()
    else:
        out.write_text(out.read_text().removesuffix("# mine\n"))


@pytest.fixture(scope="module")
def killed(commands, results):
    """Kills every command; says by which signal and what was there before."""
    before = {name: content(results(name)) for name in NAMES}
    given = [
        [*commands[name], "--out", str(results(name)), "--overwrite"]
        for name in NAMES
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(given)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    signals = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(NAMES, signals, strict=True)), before


@pytest.mark.parametrize("name", NAMES)
def test_kill_leaves_what_was_there(killed, results, name):
    signals, before = killed
    assert signals[name] == signal.SIGKILL
    out = results(name)
    assert content(out) == before[name]
    assert not out.is_file() or out.read_bytes()
