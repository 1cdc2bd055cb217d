import dataclasses
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.export.write import FORMS
from kmod.files import atomic
from kmod.graph.content import content_digest
from kmod.modules.module_store import StoreContent
from kmod.modules.module_store import load_store
from kmod.modules.module_store import save_store

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
        answers = loaded.info.answers
        assert loaded.info == dataclasses.replace(module.info, answers=answers)
        assert len(answers) == 8
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
    again = save_store(tmp_path / "again", StoreContent(modules[:1], manifest))
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


@pytest.mark.long
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
    form, calls = FORMS["savedmodel"], []

    def fail_at_second(model, class_names, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError("disk full")
        form.write(model, class_names, path)

    failing = dataclasses.replace(form, write=fail_at_second)
    monkeypatch.setitem(FORMS, "savedmodel", failing)
    with pytest.raises(OSError, match="disk full"):
        save_store(tmp_path / "store", StoreContent(modules, manifest))
    assert len(calls) == 2
    assert not list(tmp_path.iterdir())


def test_interrupted_overwrite_keeps_the_old_store(
    store_copy, modules, manifest, monkeypatch
):
    def interrupt(new, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_move_into_place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_store(
            store_copy, StoreContent(modules[:1], manifest), overwrite=True
        )
    assert len(load_store(store_copy)) == 3
    assert list(store_copy.parent.iterdir()) == [store_copy]


def test_overwrite_replaces_the_store(store_copy, modules, manifest):
    with pytest.raises(UsageError, match="must be new or empty"):
        save_store(store_copy, StoreContent(modules[:1], manifest))
    store = save_store(
        store_copy, StoreContent(modules[:1], manifest), overwrite=True
    )
    assert store.class_names == ("🐟",)


def test_class_is_not_saved_twice(modules, manifest, tmp_path):
    with pytest.raises(
        UsageError, match=r"one for each class .*\['cat', 'cat'\]"
    ):
        save_store(tmp_path / "store", StoreContent([modules[1]] * 2, manifest))
    assert not list(tmp_path.iterdir())


def with_model(module, change):
    model = keras.models.clone_model(module.model)
    return dataclasses.replace(module, model=change(model) or model)


def with_info(module, **changes):
    info = dataclasses.replace(module.info, **changes)
    return dataclasses.replace(module, info=info)


def add_lambda(model):
    score = keras.layers.Lambda(lambda x: x, output_shape=(1,))(model.output)
    return keras.Model(model.input, score)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            lambda module: with_info(module, class_name="zebra"),
            UsageError,
            "manifest's classes .* Received: a module of class 'zebra'",
            id="class",
        ),
        pytest.param(
            lambda module: with_info(module, class_index=2),
            UsageError,
            "class 'cat' has index 2, but the classes are",
            id="index",
        ),
        pytest.param(
            lambda module: with_info(module, source_digest="sha256:1"),
            UsageError,
            "manifest's source model .* 'cat' from sha256:1",
            id="source",
        ),
        pytest.param(
            lambda module: with_info(module, retention_rate=1.5),
            UsageError,
            r"retention_rate: 1.5 is greater than the maximum of 1",
            id="info",
        ),
        pytest.param(
            lambda module: with_model(
                module,
                lambda m: keras.Model(m.input, m.get_layer("pool").output),
            ),
            UsageError,
            r"answers with one score: .* Received: .* 'cat' with .*\(None, 3\)",
            id="shape",
        ),
        pytest.param(
            lambda module: with_model(module, add_lambda),
            ArtifactError,
            "built-in Keras layers .* Received: .*keras.layers.Lambda",
            id="lambda",
        ),
        pytest.param(
            lambda module: with_model(
                module,
                lambda m: m.set_weights([w * np.nan for w in m.get_weights()]),
            ),
            CheckError,
            "saved model must answer as .* 'cat' .* weights that are not",
            id="not-finite",
        ),
    ],
)
def test_unfit_module_is_not_saved(
    modules, manifest, tmp_path, change, error, message
):
    with pytest.raises(error, match=message):
        save_store(
            tmp_path / "store", StoreContent([change(modules[1])], manifest)
        )
    assert not list(tmp_path.iterdir())
