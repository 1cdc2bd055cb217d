"""Damages artifacts at random, and tells how reading them ends.

What is read must answer exactly as before, or raise an error of kmod's: never
another error, other answers, nothing for seconds, or much more memory than it
has bytes. Memory is that of Linux's `/proc`.
"""

import contextlib
import copy
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml

from kmod.composition.composer import compose
from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.lock import check_lock
from kmod.composition.lock import write_lock
from kmod.composition.plan import plan
from kmod.composition.saving import load
from kmod.composition.saving import save
from kmod.errors import KmodError
from kmod.export.keras_file import load_keras_file
from kmod.files import data_digest
from kmod.files import file_digest
from kmod.files.run_directory import open_run
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.modules.manifest import MODULE_FILE
from kmod.modules.manifest import STORE_FILE
from kmod.modules.module_store import load_store
from kmod.modules.module_store import read_module
from kmod.spec.spec_file import load_spec
from kmod.spec.spec_file import write_spec

CLASS_NAMES = ("one", "two", "three")
MOST_SECONDS = 5
# Of memory, beside two times the artifact's bytes.
MOST_BYTES = 500 * 10**6
# What ends a read that hangs: beyond any doubt, and not an error of kmod's.
DEADLINE = 4 * MOST_SECONDS
VALUES = (
    *(None, True, False, -1, 0, 1, 2**40, 1e308, float("nan"), float("inf")),
    *("", "x", "no", "../x", "/etc/passwd", "x" * 300, "\u202e", "é"),
    *([], [1], {}, {"x": 1}, [None], "sha256:" + "0" * 64, "2026-01-01"),
)
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 1))
IMAGES = IMAGES.astype("float32")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """Something on disk that is damaged and read.

    Attributes:
        path: File or directory; a copy of it is damaged.
        read: Reads it; returns plain data of its answers.
        may_answer: Tells whether something that was read is right, given
            what was read before the damage.
    """

    path: Path
    read: Callable[[Path], Any]
    may_answer: Callable[[Any, Any], bool] = lambda found, right: found == right
    errors: tuple[type[Exception], ...] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How reading a damaged artifact ended.

    Attributes:
        kind: `"same"`, `"refused"` or what must not be: `"other answers"`,
            `"other error"`, `"hang"`, `"memory"`.
        what: What was done to it, and what was said.
        seconds: How long the read took the processor.
        mebibytes: How much memory it took at most.
    """

    kind: str
    what: str
    seconds: float
    mebibytes: float = 0.0

    @property
    def is_right(self) -> bool:
        return self.kind in ("same", "refused")


class _HangError(BaseException):
    """Nothing that reads may catch it."""


def small_network(num_classes: int = 3, seed: int = 0) -> keras.Model:
    """Returns an untrained classifier of images of 8x8 pixels."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(num_classes, activation="softmax")(x)
    return keras.Model(image, x, name="small")


def make_artifacts(folder: Path) -> dict[str, Artifact]:
    """Makes one small artifact of every kind.

    Args:
        folder: Folder to make them in.
    """
    source = small_network()
    modular = ModularModel(source, CLASS_NAMES)
    masks = modular.kernel_masks
    masks[0, 0] = masks[1, 5] = 0
    modular.kernel_masks = masks
    store = decompose(modular, folder / "store", value_range=(0, 255))
    module = shutil.copytree(store.path / "one", folder / "module")
    small_network(seed=1).save(folder / "weak.keras")
    stores = {"s": {"path": store.path}}
    head = {"version": 1, "stores": stores}
    classes = [
        {"name": name, "module": {"store": "s", "class": name}}
        for name in CLASS_NAMES[:2]
    ]
    write_spec({"name": "two", **head, "classes": classes}, folder / "two.yaml")
    base = {"path": folder / "weak.keras", "classes": list(CLASS_NAMES)}
    patches = [{"class": "one", "module": {"store": "s", "class": "one"}}]
    input = {"shape": [8, 8, 1], "range": [0, 255]}
    write_spec(
        {"name": "p", **head, "input": input, "base": base, "patches": patches},
        folder / "patch.yaml",
    )
    save(compose(folder / "two.yaml"), folder / "composed")
    save(compose(folder / "patch.yaml"), folder / "patched")
    write_lock(plan(load_spec(folder / "two.yaml")))
    run = open_run(folder / "run", {"seed": 1}, False)
    for number in (1, 2):
        arrays = {"masks": np.arange(6.0) * number}
        run.save("masks", number, {"epoch": number}, arrays)
    return {
        "store": Artifact(store.path, _read_store),
        "module": Artifact(module, _read_module),
        "composed": Artifact(folder / "composed", _read_composed),
        "patched": Artifact(folder / "patched", _read_composed),
        "run": Artifact(folder / "run", _read_run, _is_checkpoint),
        "keras": Artifact(folder / "weak.keras", _read_keras),
        "spec": Artifact(folder / "two.yaml", _read_spec, _is_spec, (OSError,)),
        "lock": Artifact(folder / "two.lock.yaml", _read_lock),
    }


def _answers(model):
    return keras.ops.convert_to_numpy(model(IMAGES)).tobytes()


def _read_store(path):
    store = load_store(path)
    name = next(iter(store))  # All are compared by their digests.
    contents = tuple(map(store.content, store))
    return tuple(store), contents, _answers(store[name].model)


def _read_module(path):
    return _answers(read_module(path).model)


def _read_composed(path):
    model = load(path)
    return model.class_names, _answers(model)


def _read_keras(path):
    return _answers(load_keras_file(path, allow_custom=True))


def _read_run(path):
    found = open_run(path, {"seed": 1}, True).latest("masks")
    return found and (found.number, found.arrays["masks"].tobytes())


def _is_checkpoint(found, right):
    """A damaged newest checkpoint falls back to the one before, or none."""
    earlier = [(n, (np.arange(6.0) * n).tobytes()) for n in (1, 2)]
    return found is None or found in earlier


def _read_spec(path):
    return load_spec(path)


def _is_spec(found, right):
    """Another spec is right as such: a spec is what the user writes."""
    return type(found) is type(right)


def _read_lock(path):
    spec = path.with_name(path.name.replace(".lock", ""))
    check_lock(plan(load_spec(spec)))
    return "as locked"


def copy_of(artifact: Artifact, folder: Path) -> Artifact:
    """Copies an artifact, with what lies beside it where it needs that."""
    if artifact.path.suffix == ".yaml":
        shutil.copytree(artifact.path.parent, folder, dirs_exist_ok=True)
        return dataclasses.replace(artifact, path=folder / artifact.path.name)
    path = folder / artifact.path.name
    copy = shutil.copytree if artifact.path.is_dir() else shutil.copyfile
    copy(artifact.path, path)
    return dataclasses.replace(artifact, path=path)


def outcome_of(artifact: Artifact, draw: random.Random, right: Any) -> Outcome:
    """Damages an artifact, reads it, and puts it right again.

    Args:
        artifact: The artifact; what it was is restored at the end.
        draw: Draws what is done to it.
        right: What reading it gave before.
    """
    with _restored(artifact.path):
        is_manifest = artifact.path.is_dir() and draw.random() < 0.3
        damage = _damage_manifest if is_manifest else _damage_file
        most_bytes = MOST_BYTES + 2 * _size(artifact.path)
        what = damage(artifact.path, draw)
        before = _forget_peak()
        start = time.process_time()
        try:
            with _deadline():
                found = artifact.read(artifact.path)
        except (KmodError, *artifact.errors):
            kind = "refused"
        except _HangError:
            kind = "hang"
        except Exception as error:
            kind = "other error"
            what = f"{what}: {type(error).__name__}: {str(error)[:300]}"
        else:
            kind = "other answers"
            if artifact.may_answer(found, right):
                kind = "same"
            elif "resealed" in what and _holds_no_others(found, right):
                kind = "same"
        seconds = time.process_time() - start
        taken = _memory("VmHWM") - before
    if seconds > MOST_SECONDS:
        kind = "hang"
    if taken > most_bytes:
        kind = "memory"
    return Outcome(kind, what, seconds, taken / 2**20)


def _size(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files)


def _forget_peak():
    """Lets the peak be what is taken now; returns that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024


def _holds_no_others(found, right):
    """A manifest that was forged may name the same answers otherwise."""
    return _arrays(found) <= _arrays(right)


def _arrays(answers):
    if isinstance(answers, bytes):
        return {answers}
    if isinstance(answers, dict):
        answers = tuple(answers.values())
    if isinstance(answers, tuple):
        return set().union(*map(_arrays, answers))
    return set()


@contextlib.contextmanager
def _deadline():
    def stop(*_):
        raise _HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(DEADLINE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _restored(path):
    spare = path.with_name(f"{path.name}.spare")
    if path.is_dir():
        shutil.copytree(path, spare)
    else:
        shutil.copyfile(path, spare)
    try:
        yield
    finally:
        _remove(path)
        spare.rename(path)


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _damage_file(path, draw):
    """Damages one file of an artifact; returns what was done."""
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
    file = draw.choice(files)
    name = file.relative_to(path).as_posix() if path.is_dir() else file.name
    if draw.random() < 0.15:
        change = draw.choice(CHANGES)
        change(file, files, draw)
        return f"{name}: {change.__name__.strip('_')}"
    how, data = mutated(file.read_bytes(), draw)
    file.write_bytes(data)
    return f"{name}: {how}"


def mutated(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Changes some bytes.

    Returns:
        What was done, and the bytes.
    """
    data, done = bytearray(data), []
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        start = draw.randrange(len(data) + 1)
        length = draw.choice((1, 1, 2, 4, 16, 100, len(data)))
        span = data[start : start + length]
        how = draw.choice(
            ("bit", "byte", "cut", "drop", "noise", "twice", "zeros", "ones")
        )
        done.append(f"{how} at {start}, {len(span)}")
        if how == "cut":
            del data[start:]
            continue
        new = {
            "bit": bytes(b ^ (1 << draw.randrange(8)) for b in span[:1]),
            "byte": bytes(draw.randrange(256) for _ in span[:1]),
            "drop": b"",
            "noise": bytes(draw.randrange(256) for _ in span),
            "twice": span + span,
            "zeros": bytes(len(span)),
            "ones": b"\xff" * len(span),
        }[how]
        end = start + (1 if how in ("bit", "byte") else length)
        data[start:end] = new
    return "; ".join(done), bytes(data)


def _delete(file, files, draw):
    file.unlink()


def _empty(file, files, draw):
    file.write_bytes(b"")


def _link(file, files, draw):
    target = file.with_name(f"{file.name}.target")
    file.rename(target)
    file.symlink_to(target.name)


def _dangling_link(file, files, draw):
    file.unlink()
    file.symlink_to("nowhere")


def _loop(file, files, draw):
    file.unlink()
    file.symlink_to(file.name)


def _pipe(file, files, draw):
    file.unlink()
    os.mkfifo(file)


def _directory(file, files, draw):
    file.unlink()
    file.mkdir()


def _swap(file, files, draw):
    other = draw.choice(files)
    data = file.read_bytes(), other.read_bytes()
    file.write_bytes(data[1])
    other.write_bytes(data[0])


def _add_beside(file, files, draw):
    file.with_name("added").write_bytes(b"x")


def _rename(file, files, draw):
    file.rename(file.with_name(f"{file.name}x"))


CHANGES = (
    *(_delete, _empty, _link, _dangling_link, _loop, _pipe, _directory),
    *(_swap, _add_beside, _rename),
)


def _damage_manifest(path, draw):
    """Changes a value of a manifest and seals it anew, as a forger would."""
    manifests = sorted(
        each
        for each in path.rglob("*")
        if each.name
        in (STORE_FILE, COMPOSITION_FILE, "module.yaml", "run.json")
    )
    file = draw.choice(manifests)
    text = file.read_text(encoding="utf-8")
    is_json = file.suffix == ".json"
    data = json.loads(text) if is_json else yaml.safe_load(text)
    what = mutate_value(data, draw)
    _write_sealed(file, data, is_json)
    store = path / STORE_FILE
    if file.name == "module.yaml" and store.is_file():
        _name_manifest(store, file)
    return f"{file.relative_to(path).as_posix()}, resealed: {what}"


def _write_sealed(file, data, is_json):
    if isinstance(data, dict) and "digest" in data:
        body = {k: v for k, v in data.items() if k not in ("version", "digest")}
        with contextlib.suppress(TypeError, ValueError):
            data["digest"] = data_digest(body)
    text = json.dumps(data) if is_json else yaml.safe_dump(data)
    file.write_text(text, encoding="utf-8")


def _name_manifest(store, file):
    """Gives the store the digest that a module's manifest now has."""
    directory = file.relative_to(store.parent).parts[0]
    data = yaml.safe_load(store.read_text(encoding="utf-8"))
    for record in data["modules"]:
        if record["directory"] == directory:
            record["manifest"] = file_digest(
                store.parent / directory / MODULE_FILE
            )
    _write_sealed(store, data, False)


def mutate_value(data: Any, draw: random.Random) -> str:
    """Changes one value of plain data in place; returns what was done."""
    places = list(_places(data))
    parent, key = draw.choice(places)
    shown = repr(parent[key])[:60]
    how = draw.choice(("value", "value", "value", "gone", "key", "twice"))
    if how == "gone":
        del parent[key]
    elif how == "key" and isinstance(parent, dict):
        parent[draw.choice(("x", "name", "digest"))] = parent.pop(key)
    elif how == "twice" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = copy.deepcopy(draw.choice(VALUES))
        return f"{key!r}: {parent[key]!r} for {shown}"
    return f"{key!r} {how}, {shown}"


def _places(data):
    """Yields every container in plain data with each of its keys."""
    if isinstance(data, dict):
        items = list(data.items())
    else:
        items = list(enumerate(data)) if isinstance(data, list) else []
    for key, value in items:
        yield data, key
        yield from _places(value)
