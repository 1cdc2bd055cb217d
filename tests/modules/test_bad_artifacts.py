"""Artifacts that must be refused, each with what commands say of it.

The numbers are those of the list of what an artifact can have wrong. A damage
is done to a copy of a store, of a model that is composed from it, or of a
module in it; digests that would tell it are written anew where that is the
only way to get behind them.
"""

import builtins
import dataclasses
import errno
import io
import json
import os
import re
import shlex
import shutil
import socket
import stat
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tensorflow.core.protobuf import saved_model_pb2

from kmod.cli.main import main
from kmod.composition.composer import compose
from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.saving import save
from kmod.errors import ArtifactError
from kmod.export.operations import check_saved_model
from kmod.files import data_digest
from kmod.files import file_digest
from kmod.files import read_files
from kmod.files.plain_yaml import MAX_BYTES
from kmod.graph.content import content_digest
from kmod.modules.manifest import MODULE_FILE
from kmod.modules.manifest import STORE_FILE
from kmod.modules.module_store import ARCHIVE_FILE

STORE, MODULE, MODEL = Path("store"), Path("store/cat"), Path("model")
MANIFEST, CARD = STORE / STORE_FILE, MODEL / COMPOSITION_FILE
GRAPH, ARCHIVE = MODULE / "saved_model.pb", MODULE / ARCHIVE_FILE
OF_STORE = (
    "inspect store",
    "test --json store",
    "compose spec.yaml --out out --format keras",
)
OF_MODULE = (
    "inspect store/cat",
    "export store/cat --format savedmodel --out out",
)
OF_MODEL = (
    "inspect model",
    "test --json model",
    "export model --format savedmodel --out out",
)
LOADING = (OF_STORE[2], OF_MODULE[1])
SERVING = (OF_STORE[1],)
WAY_OUT = r"\. (Copy|Give|Look|Make|Move|Replace|Save|Take|Use|If|Do not use) "
# Of the processor, far above what any refusal takes. What hangs never ends.
SECONDS = 5
IMAGE = tf.TensorSpec((None, 8, 8, 3), "float32", "image")


@dataclasses.dataclass(frozen=True)
class Bad:
    """How an artifact is damaged, and what commands say of it.

    Attributes:
        damage: Damages what is in the working directory.
        message: Pattern of what they say.
        code: What they exit with.
        commands: The commands.
    """

    damage: Callable[[], object]
    message: str
    code: int = 4
    commands: tuple[str, ...] = OF_STORE


def edit(path, change):
    """Changes a manifest of YAML, and its own digest if it has one."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(data)
    if "digest" in data:
        others = ("digest",) if path == CARD else ("digest", "version")
        body = {key: data[key] for key in data if key not in others}
        data["digest"] = data_digest(body)
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")


def reseal(change=lambda data: None, content=None):
    """Writes the manifests of a module anew, so that all digests fit."""
    files = read_files(MODULE)
    del files[MODULE_FILE]

    def describe(data):
        data["files"] = files
        data["content"] = content or data["content"]
        change(data)

    def note(data):
        (record,) = (m for m in data["modules"] if m["directory"] == "cat")
        record["manifest"] = file_digest(MODULE / MODULE_FILE)
        record["content"] = content or record["content"]

    edit(MODULE / MODULE_FILE, describe)
    edit(MANIFEST, note)


def resealed(damage, **options):
    """Returns a damage of a module after which all digests fit."""
    return lambda: (damage(), reseal(**options))


def rewrite(path, change):
    """Changes the bytes of a file."""
    path.write_bytes(change(path.read_bytes()))


def member(name, change):
    """Changes a file in the archive of a module."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        files = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(ARCHIVE, "w") as archive:
        for each, content in files.items():
            new = change(content) if each == name else content
            archive.writestr(each, new)


def of_tomorrow():
    """Makes an archive of a Keras that knows more arguments."""
    layer(config={"argument_of_tomorrow": 1})()
    member(
        "metadata.json",
        lambda data: json.dumps(
            json.loads(data) | {"keras_version": "99.0.0"}
        ).encode(),
    )


def layer(**changes):
    """Changes the entry of a module's convolution in its Keras config."""

    def change(content):
        config = json.loads(content)
        (entry,) = (
            each
            for each in config["config"]["layers"]
            if each["config"]["name"] == "conv"
        )
        own = entry["config"] | changes.get("config", {})
        entry |= changes | {"config": own}
        return json.dumps(config).encode()

    return resealed(lambda: member("config.json", change))


def link(path):
    """Moves what is there, and links to it."""
    path.symlink_to(path.rename(path.with_name("moved")).name)


def bind(path):
    """Makes a socket; its path may be longer than sockets' are."""
    here = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(here)


def flip(path):
    def change(content):
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        return content[:middle] + flipped + content[middle + 1 :]

    return lambda: rewrite(path, change)


def serve(answer, image=IMAGE, name="serve"):
    """Puts another program in the place of a module's SavedModel."""

    def damage():
        module = tf.Module()
        function = tf.function(answer, input_signature=[image])
        setattr(module, name, function)
        tf.saved_model.save(module, str(MODULE), {name: function})

    return resealed(damage)


def score(image):
    return tf.reduce_mean(tf.cast(image, "float32"), axis=(1, 2, 3))[:, None]


def writing(image):
    tf.io.write_file("written", "evil")
    return {"score": score(image)}


def unknown_operation():
    proto = saved_model_pb2.SavedModel.FromString(GRAPH.read_bytes())
    proto.meta_graphs[0].graph_def.node.add(name="more", op="OperationOfMine")
    GRAPH.write_bytes(proto.SerializeToString())


def not_finite(value):
    """Saves a module with a weight that is no number, all digests anew."""

    def damage():
        model = keras.saving.load_model(ARCHIVE)
        bias = model.get_layer("head").bias
        bias.assign(bias * 0 + value)
        model.save(ARCHIVE)
        reseal(content=content_digest(model))

    return damage


def without_calibration():
    """Saves a module that ends in its head, all digests anew."""
    model = keras.saving.load_model(ARCHIVE)
    model = keras.Model(model.input, model.get_layer("head").output)
    model.save(ARCHIVE)
    reseal(content=content_digest(model))


def kept(*kernels):
    """Lists other kernels of a module's convolution."""
    return lambda: reseal(
        lambda data: data["kept_kernels"].update(conv=[*kernels])
    )


def file_named(name):
    """Lists one more file of a module."""
    return lambda: reseal(
        lambda data: data["files"].update(
            {name: dict(data["files"]["saved_model.pb"])}
        )
    )


def version(path, number):
    return lambda: edit(path, lambda data: data.update(version=number))


def savedmodel_of_others():
    shutil.move(MODULE, "foreign")
    shutil.rmtree("foreign/assets.extra")
    shutil.rmtree(STORE)
    shutil.move("foreign", STORE)


def in_place_of(path, make):
    """Puts something else in the place of a file or directory."""

    def damage():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return damage


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices can not be made here")


def change_hard_link():
    """Changes a file by another name that it has outside the store."""
    os.link(GRAPH, "elsewhere.pb")
    flip(Path("elsewhere.pb"))()


def noise(path):
    return lambda: path.write_bytes(np.random.default_rng(0).bytes(5000))


def contract(*shape):
    return lambda: edit(
        MANIFEST, lambda data: data["input"].update(shape=shape)
    )


def record(**changes):
    """Changes what a store says of a module."""
    return lambda: edit(
        MANIFEST, lambda data: data["modules"][1].update(changes)
    )


NOT_AS_WRITTEN = "store.yaml' is not as kmod wrote it: "
MODULE_NOT_AS_WRITTEN = "module.yaml' is not as kmod wrote it: "
NAMED = "store/cat' does not hold the files that its manifest names: "
SPECIAL = "', a link or special file. Copy the artifact"
BUILT_IN = (
    "consists of built-in Keras layers .* Received: %s in '.*module.keras'"
)
OPERATIONS = "saved_model.pb' with operation '%s'. It was not loaded"
BOTH = OF_STORE + OF_MODULE
BAD = {
    "b01-path-missing": Bad(
        lambda: shutil.rmtree(STORE), "store', which does not exist", 3
    ),
    "b02-a-file": Bad(
        in_place_of(STORE, lambda path: path.write_text("text")),
        "store', (which is no directory|a file of another kind)",
        3,
    ),
    "b04-empty-directory": Bad(
        in_place_of(STORE, Path.mkdir), "store' without one", 3
    ),
    "b05-foreign-savedmodel": Bad(
        savedmodel_of_others, "store', a SavedModel that kmod did not write", 3
    ),
    "b06-manifest-no-yaml": Bad(
        lambda: MANIFEST.write_text("{version: 1"),
        f"{NOT_AS_WRITTEN}line 2, column 1: this is not YAML",
    ),
    "b07-manifest-cut": Bad(
        lambda: rewrite(MANIFEST, lambda data: data[: len(data) // 2]),
        f"{NOT_AS_WRITTEN}line .* this is not YAML",
    ),
    "b08-key-twice": Bad(
        lambda: rewrite(MANIFEST, lambda data: data + b"version: 1\n"),
        f"{NOT_AS_WRITTEN}.* the key 'version' appears twice",
    ),
    "b09-manifest-too-large": Bad(
        lambda: rewrite(MANIFEST, lambda data: data + b"#" * MAX_BYTES),
        f"{NOT_AS_WRITTEN}[0-9]+ bytes are more than the {MAX_BYTES} allowed",
    ),
    "b10-manifest-too-deep": Bad(
        lambda: MANIFEST.write_text("[" * 10_000),
        f"{NOT_AS_WRITTEN}.* at most 32 levels",
    ),
    "b11-newer-store": Bad(
        version(MANIFEST, 2), "version=2 in '.*store.yaml'", 3
    ),
    "b11-older-store": Bad(
        version(MANIFEST, 0), "version=0 in '.*store.yaml'", 3
    ),
    "b11-newer-model": Bad(
        version(CARD, 2), "version=2 in 'model/composition.yaml'", 3, OF_MODEL
    ),
    "b12-unknown-key": Bad(
        lambda: edit(MANIFEST, lambda data: data.update(needs="more")),
        f"{NOT_AS_WRITTEN}.*'needs' was unexpected",
    ),
    "b12-unknown-key-of-a-module": Bad(
        lambda: reseal(lambda data: data.update(needs="more")),
        f"{MODULE_NOT_AS_WRITTEN}.*'needs' was unexpected",
        commands=BOTH,
    ),
    "b13-file-missing": Bad(
        lambda: (MODULE / "fingerprint.pb").unlink(),
        f"{NAMED}'fingerprint.pb' is missing",
        commands=BOTH,
    ),
    "b13-manifest-of-a-module-missing": Bad(
        lambda: (MODULE / MODULE_FILE).unlink(),
        f"{MODULE_NOT_AS_WRITTEN}it is missing",
    ),
    "b13-module-missing": Bad(
        lambda: shutil.rmtree(MODULE), f"{MODULE_NOT_AS_WRITTEN}it is missing"
    ),
    "b14-file-added": Bad(
        lambda: (MODULE / "assets/words").write_text("x"),
        f"{NAMED}'assets/words' was added",
        commands=BOTH,
    ),
    "b14-file-added-beside-modules": Bad(
        lambda: (STORE / "notes.txt").write_text("x"),
        r"Received: \['notes.txt'\] in '.*store'. Move them elsewhere",
    ),
    "b15-size-differs": Bad(
        lambda: rewrite(ARCHIVE, lambda data: data + b"x"),
        f"{NAMED}'assets.extra/module.keras' has other bytes",
        commands=BOTH,
    ),
    "b16-bit-flipped-in-a-store": Bad(
        flip(GRAPH), f"{NAMED}'saved_model.pb' has other bytes", commands=BOTH
    ),
    "b16-bit-flipped-in-a-composed-model": Bad(
        flip(MODEL / "model.keras"),
        "model' does not hold .*: 'model.keras' has other bytes",
        commands=OF_MODEL,
    ),
    "b17-other-algorithm": Bad(
        record(content="md5:1"), f"{NOT_AS_WRITTEN}.*'md5:1' does not match"
    ),
    "b17-malformed-digest": Bad(
        record(manifest="sha256:xyz"),
        f"{NOT_AS_WRITTEN}.*'sha256:xyz' does not match",
    ),
    "b17-malformed-digest-of-a-file": Bad(
        lambda: reseal(
            lambda data: data["files"]["fingerprint.pb"].update(digest="x")
        ),
        f"{MODULE_NOT_AS_WRITTEN}.*'x' does not match",
        commands=BOTH,
    ),
    **{
        f"b18-{words}": Bad(
            record(directory=name), f"{NOT_AS_WRITTEN}.* does not match"
        )
        for words, name in {
            "directory-outside": "../cat",
            "absolute-directory": "/etc",
            "backslash": "a\\cat",
            "drive": "C:",
            "capital": "Cat",
        }.items()
    },
    "b18-file-outside": Bad(
        file_named("../../etc/passwd"),
        f"{NAMED}'../../etc/passwd' is missing",
        commands=BOTH,
    ),
    "b18-file-twice-but-for-case": Bad(
        file_named("Saved_Model.pb"),
        f"{NAMED}'Saved_Model.pb' is missing",
        commands=BOTH,
    ),
    "b19-link": Bad(
        lambda: link(GRAPH), f"saved_model.pb{SPECIAL}", commands=BOTH
    ),
    "b19-link-to-a-directory": Bad(lambda: link(MODULE), f"cat{SPECIAL}"),
    "b19-link-for-the-manifest": Bad(
        lambda: link(MANIFEST), f"{NOT_AS_WRITTEN}it is a link", commands=BOTH
    ),
    "b19-dangling-link": Bad(
        in_place_of(GRAPH, lambda path: path.symlink_to("gone")),
        f"saved_model.pb{SPECIAL}",
        commands=BOTH,
    ),
    "b19-loop": Bad(
        in_place_of(GRAPH, lambda path: path.symlink_to(path.name)),
        f"saved_model.pb{SPECIAL}",
        commands=BOTH,
    ),
    "b19-loop-for-the-manifest": Bad(
        in_place_of(MANIFEST, lambda path: path.symlink_to(path.name)),
        f"{NOT_AS_WRITTEN}it is a link",
        commands=BOTH,
    ),
    "b19-loop-for-the-manifest-of-a-model": Bad(
        in_place_of(CARD, lambda path: path.symlink_to(path.name)),
        "composition.yaml' is not as kmod wrote it: it is a link",
        commands=OF_MODEL,
    ),
    "b20-changed-hard-link": Bad(
        change_hard_link,
        f"{NAMED}'saved_model.pb' has other bytes",
        commands=BOTH,
    ),
    "b20-pipe": Bad(
        in_place_of(ARCHIVE, os.mkfifo), f"module.keras{SPECIAL}", commands=BOTH
    ),
    "b20-pipe-for-the-manifest": Bad(
        in_place_of(MANIFEST, os.mkfifo),
        f"{NOT_AS_WRITTEN}it is a link or special file",
        commands=BOTH,
    ),
    "b20-pipe-for-the-store": Bad(
        in_place_of(STORE, os.mkfifo),
        "store', (which is no directory|a file of another kind)",
        3,
    ),
    "b20-pipe-in-a-composed-model": Bad(
        in_place_of(MODEL / "model.keras", os.mkfifo),
        f"model.keras{SPECIAL}",
        commands=OF_MODEL,
    ),
    "b20-device": Bad(
        in_place_of(ARCHIVE, device), f"module.keras{SPECIAL}", commands=BOTH
    ),
    "b20-socket": Bad(
        in_place_of(ARCHIVE, bind), f"module.keras{SPECIAL}", commands=BOTH
    ),
    "b21-empty-graph": Bad(
        resealed(lambda: GRAPH.write_bytes(b"")),
        "saved_model.pb' with 0 graphs",
        3,
        SERVING,
    ),
    "b22-random-graph": Bad(
        resealed(noise(GRAPH)),
        "saved_model.pb', which can not be read",
        3,
        SERVING,
    ),
    "b22-random-archive": Bad(
        resealed(noise(ARCHIVE)),
        "module.keras' is not a Keras archive",
        3,
        LOADING,
    ),
    "b23-cut-graph": Bad(
        resealed(lambda: rewrite(GRAPH, lambda data: data[:-100])),
        "saved_model.pb', which can not be read",
        3,
        SERVING,
    ),
    "b24-writes-a-file": Bad(
        serve(writing), OPERATIONS % "WriteFile", 3, SERVING
    ),
    "b24-reads-a-file": Bad(
        serve(lambda image: {"score": tf.io.read_file("x")}),
        OPERATIONS % "ReadFile",
        3,
        SERVING,
    ),
    "b24-runs-python": Bad(
        serve(
            lambda image: {
                "score": tf.numpy_function(lambda x: x, [image], "float32")
            }
        ),
        OPERATIONS % "PyFunc",
        3,
        SERVING,
    ),
    "b24-unknown-operation": Bad(
        resealed(unknown_operation), OPERATIONS % "OperationOfMine", 3, SERVING
    ),
    "b25-signature-renamed": Bad(
        serve(lambda image: {"score": score(image)}, name="answer"),
        "by `serve` .* Received: '.*cat', .* has no attribute 'serve'",
        3,
        SERVING,
    ),
    "b25-other-dtype": Bad(
        serve(
            lambda image: {"score": score(tf.equal(image, "x"))},
            tf.TensorSpec((None, 8, 8, 3), "string", "image"),
        ),
        "by `serve` .* Received: '.*cat', .*Failed to convert.*`[.] Make it",
        3,
        SERVING,
    ),
    "b25-other-rank": Bad(
        serve(
            lambda image: {"score": score(image[..., None])},
            tf.TensorSpec((None, 8, 8), "float32", "image"),
        ),
        "by `serve` .* Received: '.*cat', .*Can not cast.*[)]`[.] Make it",
        3,
        SERVING,
    ),
    "b25-other-answers": Bad(
        serve(lambda image: {"points": score(image)}),
        "largest difference inf",
        5,
        SERVING,
    ),
    "b26-more-classes-than-answers": Bad(
        lambda: edit(CARD, lambda data: data["class_names"].append("more")),
        "answers for its classes: .* Received: 'model' with",
        3,
        OF_MODEL[1:],
    ),
    "b26-class-index-out-of-range": Bad(
        record(class_index=99),
        f"{NOT_AS_WRITTEN}class 'cat' has index 99, but the classes are",
    ),
    "b26-layers-of-the-end-missing": Bad(
        without_calibration,
        r"store/cat' without \['calibration', 'score'\]",
        3,
        (*LOADING, *SERVING),
    ),
    "b26-kernel-out-of-range": Bad(
        kept(0, 2, 99),
        f"{MODULE_NOT_AS_WRITTEN}it keeps kernel 99 of layer 'conv', of which",
    ),
    "b26-kernel-twice": Bad(
        kept(0, 2, 2),
        f"{MODULE_NOT_AS_WRITTEN}its kernels of 'conv' do not rise",
        commands=BOTH,
    ),
    "b26-kernels-unsorted": Bad(
        kept(5, 2, 0),
        f"{MODULE_NOT_AS_WRITTEN}its kernels of 'conv' do not rise",
        commands=BOTH,
    ),
    "b27-layer-far-larger-than-its-file": Bad(
        layer(config={"filters": 200_000_000}),
        "layers with weights of [0-9,]{14} bytes in '.*module.keras'",
        3,
        LOADING,
    ),
    "b27-contract-of-huge-images": Bad(
        contract(100_000, 100_000, 3),
        "takes the images of its store's input contract",
        3,
        OF_STORE[1:],
    ),
    "b27-contract-of-one-axis": Bad(
        contract(8), "takes the images of its store's", 3, OF_STORE[1:]
    ),
    "b28-nan": Bad(
        not_finite(np.nan),
        "NaN or infinity in 'head/bias' of '.*keras'",
        3,
        (*LOADING, *SERVING),
    ),
    "b28-infinity": Bad(
        not_finite(np.inf),
        "NaN or infinity in 'head/bias' of '.*keras'",
        3,
        (*LOADING, *SERVING),
    ),
    "b29-lambda": Bad(
        layer(class_name="Lambda"), BUILT_IN % "keras.layers.Lambda", 3, LOADING
    ),
    "b29-savedmodel-as-a-layer": Bad(
        layer(class_name="TFSMLayer"),
        BUILT_IN % "keras.layers.TFSMLayer",
        3,
        LOADING,
    ),
    "b29-registered-name": Bad(
        layer(registered_name="a>Conv2D"), BUILT_IN % "a>Conv2D .*", 3, LOADING
    ),
    "b29-other-module": Bad(
        layer(module="os", class_name="system"),
        BUILT_IN % "os.system",
        3,
        LOADING,
    ),
    "b29-nested": Bad(
        layer(config={"kernel_initializer": {"class_name": "__lambda__"}}),
        BUILT_IN % "[?].__lambda__",
        3,
        LOADING,
    ),
    "b30-newer-kmod": Bad(
        lambda: (
            shutil.copytree(MODULE, "alone"),
            version(Path("alone", MODULE_FILE), 2)(),
        ),
        "version=2 in 'alone/assets.extra/module.yaml'. Use the kmod that",
        3,
        ("inspect alone", "export alone --format savedmodel --out out"),
    ),
    "b30-newer-keras": Bad(
        resealed(of_tomorrow),
        "module.keras' can not be loaded by Keras .* wrote it, '99.0.0'",
        3,
        LOADING,
    ),
}
UNREADABLE = {
    "b03-unreadable-directory": STORE,
    "b03-unreadable-manifest": MANIFEST,
    "b03-unreadable-file": ARCHIVE,
}


@pytest.fixture(scope="module")
def made(saved, tmp_path_factory):
    """A folder with a store, a spec of it, and what that composes."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(saved.path, folder / STORE)
    classes = [
        {"name": name, "module": {"store": "s", "class": of}}
        for name, of in (("cat", "cat"), ("top", "T-shirt/top"))
    ]
    spec = {
        "version": 1,
        "name": "two",
        "stores": {"s": {"path": "store"}},
        "license": "Apache-2.0",
    }
    text = yaml.safe_dump({**spec, "classes": classes})
    (folder / "spec.yaml").write_text(text)
    save(compose(folder / "spec.yaml"), folder / MODEL)
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy that a test may damage, the working directory."""
    copy = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


def run(command, capsys):
    start = time.process_time()
    code = main(shlex.split(command))
    assert time.process_time() - start < SECONDS
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("name", BAD)
def test_bad_artifact_is_refused(name, folder, capsys):
    bad = BAD[name]
    bad.damage()
    for command in bad.commands:
        code, out, err = run(command, capsys)
        (said,) = err.splitlines()
        if out:  # `kmod test` prints what it found.
            (said,) = (
                row["detail"]
                for row in json.loads(out)
                if row["outcome"] == "failed"
            )
        assert re.search(bad.message, said), said
        assert code == bad.code, said
        assert re.search(WAY_OUT, said) or code == 5, said
        assert not Path("out").exists()
    assert not Path("written").exists()


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_artifact_is_named(name, folder, monkeypatch, capsys):
    path = UNREADABLE[name].absolute()

    def refusing(function):
        def refuse(file, *args, **options):
            if not isinstance(file, int) and Path(file).absolute() == path:
                reason = os.strerror(errno.EACCES)
                raise PermissionError(errno.EACCES, reason, str(file))
            return function(file, *args, **options)

        return refuse

    for owner, each in (
        *((builtins, "open"), (io, "open")),
        *((os, "listdir"), (os, "scandir")),
    ):  # Whatever may be read by who runs the tests.
        monkeypatch.setattr(owner, each, refusing(getattr(owner, each)))
    for command in OF_STORE:
        code, _, err = run(command, capsys)
        assert code == 3
        assert err == f"kmod: {path}: Permission denied.\n"


def test_every_number_of_the_list_is_there():
    found = {int(name[1:3]) for name in (*BAD, *UNREADABLE)}
    assert found == set(range(1, 31))


def test_b20_hard_link_is_the_file_itself(folder, capsys):
    os.link(GRAPH, "elsewhere.pb")
    assert main(["inspect", "store"]) == 0


def test_b23_graph_that_is_cut_anywhere_is_refused(folder):
    content = GRAPH.read_bytes()
    for part in range(10):
        GRAPH.write_bytes(content[: len(content) * part // 10])
        with pytest.raises(ArtifactError, match="A SavedModel "):
            check_saved_model(MODULE)


def test_b24_graph_does_its_work_where_it_is_not_checked(folder):
    BAD["b24-writes-a-file"].damage()
    loaded = tf.saved_model.load(str(MODULE))
    assert not Path("written").exists()
    loaded.serve(np.zeros((1, 8, 8, 3), "float32"))
    assert Path("written").read_text() == "evil"
