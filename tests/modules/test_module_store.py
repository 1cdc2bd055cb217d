import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import atomic
from kmod.graph.content import content_digest
from kmod.modules import module_directory
from kmod.modules.module_store import load_store
from kmod.modules.module_store import save_store
from kmod.modules.savedmodel import export_saved_model

WITHOUT_KMOD = """
import sys

class NoKmod:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kmod":
            raise ImportError("kmod is not installed here")

sys.meta_path.insert(0, NoKmod())
import keras, numpy as np, tensorflow as tf
images = np.load(sys.argv[1])
for module in sys.argv[2:]:
    served = tf.saved_model.load(module)
    np.save(module + "/served.npy", served.serve(images)["score"])
    model = keras.saving.load_model(module + "/assets.extra/module.keras")
    np.save(module + "/loaded.npy", model(images))
try:
    import kmod
except ImportError:
    print("done")
"""
WITHOUT_KERAS = """
import sys
from kmod.modules.module_store import load_store
store = load_store(sys.argv[1])
print(store.class_names, store.info("cat").class_index)
assert not {"keras", "numpy", "tensorflow"} & set(sys.modules)
"""
PACKAGE_PARENT = Path(atomic.__file__).parents[2]
DIRECTORIES = {
    "🐟": "name-486681b3",
    "cat": "cat",
    "T-shirt/top": "t-shirt-top",
}


def run(program, *arguments, cwd):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


def test_round_trip(store_copy, modules, manifest, images):
    store = load_store(store_copy)
    assert store.class_names == ("🐟", "cat", "T-shirt/top")
    assert list(store) == list(store.class_names)
    assert len(store) == 3
    assert "cat" in store
    assert "no" not in store
    assert store.path == store_copy
    assert store.manifest.class_names == manifest.class_names
    for module in modules:
        loaded = store[module.info.class_name]
        assert loaded.info == module.info
        assert content_digest(loaded.model) == content_digest(module.model)
        np.testing.assert_array_equal(
            loaded.model(images), module.model(images)
        )


def test_store_and_model_are_not_changed_by_saving(saved, modules, manifest):
    assert manifest.modules == ()
    assert [m.info.class_name for m in modules] == list(saved.class_names)


def test_modules_are_loaded_once(saved):
    assert saved["cat"] is saved["cat"]


def test_class_names_never_become_paths(saved):
    names = sorted(item.name for item in saved.path.iterdir())
    assert names == sorted([*DIRECTORIES.values(), "store.yaml"])


def test_only_the_content_digest_does_not_depend_on_the_export(
    saved, modules, manifest, tmp_path
):
    again = save_store(tmp_path / "again", modules[:1], manifest)
    fish, other = saved.manifest.modules[0], again.manifest.modules[0]
    assert fish.content == other.content
    assert fish.manifest != other.manifest
    only_fish = dataclasses.replace(saved.manifest, modules=(fish,))
    assert again.manifest.content_digest == only_fish.content_digest
    assert again.digest != only_fish.digest
    assert only_fish.content_digest != saved.manifest.content_digest


def test_relative_path_may_be_left(store_copy, monkeypatch, tmp_path):
    monkeypatch.chdir(store_copy.parent)
    store = load_store(store_copy.name)
    monkeypatch.chdir("/")
    assert store["cat"].info.class_name == "cat"


def test_both_forms_load_without_kmod(store_copy, modules, images, tmp_path):
    file = tmp_path / "images.npy"
    np.save(file, images.astype("float32"))
    paths = [store_copy / name for name in DIRECTORIES.values()]
    assert run(WITHOUT_KMOD, file, *paths, cwd=tmp_path) == "done\n"
    for path, module in zip(paths, modules, strict=True):
        expected = module.model(images)
        for form in ("served", "loaded"):
            scores = np.load(path / f"{form}.npy")
            np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_manifests_are_read_without_keras_and_numpy(saved):
    output = run(WITHOUT_KERAS, saved.path, cwd=PACKAGE_PARENT)
    assert output == "('🐟', 'cat', 'T-shirt/top') 1\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cats", " Did you mean 'cat'?"), ("zebra", "$"), (3, "$")],
)
def test_unknown_class_is_named(saved, name, hint):
    message = f"classes .*'T-shirt/top'.*Received: class {name!r}.{hint}"
    with pytest.raises(ArtifactError, match=message.replace("?", r"\?")):
        saved[name]
    with pytest.raises(ArtifactError, match="Received: class"):
        saved.info(name)


@pytest.mark.parametrize("path", ["nowhere", "store/cat"])
def test_what_is_no_store_is_named(saved, path):
    with pytest.raises(ArtifactError, match="directory with the file 'store."):
        load_store(saved.path.parent / path)


def test_failed_save_leaves_nothing(modules, manifest, tmp_path, monkeypatch):
    calls = []

    def fail_at_second(model, directory):
        calls.append(directory)
        if len(calls) == 2:
            raise OSError("disk full")
        export_saved_model(model, directory)

    monkeypatch.setattr(module_directory, "export_saved_model", fail_at_second)
    with pytest.raises(OSError, match="disk full"):
        save_store(tmp_path / "store", modules, manifest)
    assert len(calls) == 2
    assert not list(tmp_path.iterdir())


def test_interrupted_overwrite_keeps_the_old_store(
    store_copy, modules, manifest, monkeypatch
):
    def interrupt(new, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_move_into_place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_store(store_copy, modules[:1], manifest, overwrite=True)
    assert len(load_store(store_copy)) == 3
    assert list(store_copy.parent.iterdir()) == [store_copy]


def test_overwrite_replaces_the_store(store_copy, modules, manifest):
    with pytest.raises(UsageError, match="must be new or empty"):
        save_store(store_copy, modules[:1], manifest)
    store = save_store(store_copy, modules[:1], manifest, overwrite=True)
    assert store.class_names == ("🐟",)


def test_class_is_not_saved_twice(modules, manifest, tmp_path):
    with pytest.raises(
        UsageError, match=r"one for each class .*\['cat', 'cat'\]"
    ):
        save_store(tmp_path / "store", [modules[1]] * 2, manifest)
    assert not list(tmp_path.iterdir())
