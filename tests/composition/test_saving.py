import dataclasses
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from kmod.composition import composer
from kmod.composition import saving
from kmod.composition.checks import run_tests
from kmod.composition.composer import compose
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.lock import check_lock
from kmod.composition.plan import plan
from kmod.composition.saving import load
from kmod.composition.saving import save
from kmod.data.load import load_data
from kmod.data.subsets import class_subset
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.export.write import FORMS
from kmod.files import check_files
from kmod.metrics.evaluate import evaluate
from kmod.modules.adaptation import adapt_model
from kmod.patching.patcher import patch
from kmod.spec.spec_file import load_spec

FOREIGN = """
import sys
sys.modules["kmod"] = None  # Makes `import kmod` fail.
import keras
import numpy as np
import tensorflow as tf
images = np.load(sys.argv[1])
served = tf.saved_model.load("saved_model")
answer = served.signatures["serving_default"](image=tf.constant(images))
loaded = keras.models.load_model("model.keras")(images)
np.savez(
    sys.argv[2],
    loaded=loaded,
    names=served.signatures["class_names"]()["class_names"].numpy().astype("S"),
    probabilities=answer["probabilities"],
    class_id=answer["class_id"],
    class_name=answer["class_name"].numpy().astype("S"),
)
"""


needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None
    or importlib.util.find_spec("onnxruntime") is None,
    reason="needs the extra `onnx`",
)


@pytest.fixture(scope="module")
def saved(stores, tmp_path_factory):
    """Model and directory of a composed model, for reading only."""
    path = stores["a"].path.parent / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: pets\n"
        "license: Apache-2.0\n"
        "stores: {x: {path: a}, y: {path: b}}\n"
        "classes:\n"
        "  - {name: no, module: {store: x, class: cat}}\n"
        "  - {name: é, module: {store: y, class: no}}\n"
    )
    model = compose(path)
    directory = tmp_path_factory.mktemp("composed") / "pets"
    save(model, directory, metrics={"test": {"x": 0.5}})
    return model, directory


@pytest.fixture
def directory(saved, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(saved[1], tmp_path / "moved")


def answers(model, images):
    return model.predict(images, verbose=0)


def test_round_trip(saved, directory, images):
    loaded = load(directory)
    assert loaded.class_names == ("no", "é")
    np.testing.assert_array_equal(
        answers(loaded, images), answers(saved[0], images)
    )


@pytest.mark.long
def test_model_replaced_behind_its_check_is_refused(
    saved, patched, tmp_path, monkeypatch
):
    directory = shutil.copytree(saved[1], tmp_path / "out")
    # One after the other: a model saved twice within a second has equal bytes.
    others = itertools.cycle([patched, saved[0]])

    def check_then_replace(*given):
        check_files(*given)
        shutil.rmtree(directory)
        save(next(others), directory, formats=["keras"])

    monkeypatch.setattr(saving, "check_files", check_then_replace)
    with pytest.raises(IntegrityError, match="model.keras' is not as kmod"):
        load(directory)


@pytest.fixture(scope="module")
def patched(weak, donor, digits):
    """A model that was patched without a spec."""
    return patch(
        weak, "8", donor["8"], digits.validation, class_names=digits.class_names
    )


def test_round_trip_of_a_patch_without_spec(patched, donor, digits, tmp_path):
    save(patched, tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert loaded.class_names == digits.class_names
    images = digits.test.images[:20]
    np.testing.assert_array_equal(
        answers(loaded, images), answers(patched, images)
    )
    manifest = read_composition_manifest(tmp_path / "out")
    assert manifest.input.range == (0, 255)
    assert manifest.sizes["parameters"] == patched.count_params()
    (source,) = manifest.sources
    assert (source["class"], source["module"]) == ("8", "8")
    assert source["source"] == donor.info("8").source_digest
    assert source["store"] is None
    assert not {"spec.yaml", "spec.lock.yaml"} & manifest.files.keys()
    results = list(run_tests(tmp_path / "out"))
    assert [each.outcome for each in results] == ["passed"] * 5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| given in memory |" in card


def test_patch_without_spec_is_refused_when_damaged(patched, tmp_path):
    save(patched, tmp_path / "out", formats=["keras"])
    (tmp_path / "out" / "README.md").write_text("better")
    with pytest.raises(IntegrityError, match="'README.md'"):
        load(tmp_path / "out")


@pytest.mark.parametrize("made", ["loaded", "copied", "plain"])
def test_other_models_are_refused(saved, weak, tmp_path, made):
    model = {
        "loaded": lambda: load(saved[1]),
        "copied": lambda: keras.models.clone_model(saved[0]),
        "plain": lambda: weak,
    }[made]()
    with pytest.raises(UsageError, match="what `kmod.compose`, `kmod.patch`"):
        save(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_checks_go_into_the_manifest(donor, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: d\n"
        f"stores: {{d: {{path: {os.path.relpath(donor.path, tmp_path)}}}}}\n"
        "classes:\n"
        "  - {name: 9, module: {store: d, class: 9}}\n"
        "  - {name: 8, module: {store: d, class: 8}}\n"
        "checks:\n"
        "  - {metric: accuracy, min: 0, data: {name: digits, split: test}}\n"
    )
    model = compose(path)
    save(model, tmp_path / "out", formats=["keras"], metrics={"x": 1})
    metrics = read_composition_manifest(tmp_path / "out").metrics
    assert metrics["x"] == 1
    (check,) = metrics["checks"]
    value = evaluate(
        model, class_subset(load_data("digits").test, [9, 8])
    ).accuracy
    assert (check["metric"], check["value"]) == ("accuracy", value)


def test_every_part_is_built_once(write_spec, tmp_path, monkeypatch):
    built = []

    def adapt_and_note(model, *args):
        built.append(model)
        return adapt_model(model, *args)

    monkeypatch.setattr(composer, "adapt_model", adapt_and_note)
    save(compose(write_spec()), tmp_path / "out", formats=["keras"])
    assert len(built) == 2


def test_manifest(saved, stores):
    manifest = read_composition_manifest(saved[1])
    assert (manifest.name, manifest.license) == ("pets", "Apache-2.0")
    assert manifest.sizes["parameters"] == saved[0].count_params()
    assert manifest.metrics == {"test": {"x": 0.5}}
    first, second = manifest.sources
    assert (first["class"], first["module"]) == ("no", "cat")
    assert second["store"] == stores["b"].digest
    assert second["source"] == stores["b"].info("no").source_digest
    assert {
        "README.md",
        "model.keras",
        "spec.lock.yaml",
        "spec.yaml",
    } <= manifest.files.keys()
    parts = [stores["a"]["cat"].model, stores["b"]["no"].model]
    assert manifest.unshared["parameters"] == sum(
        part.count_params() for part in parts
    )


def test_manifest_tells_what_sharing_saves(write_spec, stores, tmp_path):
    model = compose(write_spec())
    save(model, tmp_path / "out", formats=["keras"])
    manifest = read_composition_manifest(tmp_path / "out")
    shared = sum(
        layer.count_params()
        for layer in model.layers
        if layer.name.startswith("shared")
    )
    saved = manifest.unshared["parameters"] - manifest.sizes["parameters"]
    assert saved >= shared > 0  # Folding saves some more.
    assert manifest.unshared["macs"] > manifest.sizes["macs"]
    modules = [stores["a"].info(name) for name in ("cat", "dog")]
    assert manifest.unshared["macs"] == sum(info.macs for info in modules)


def test_card_and_lock_belong_to_the_model(saved):
    card = (saved[1] / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "| no | cat | source\\_0 |" in card
    check_lock(plan(load_spec(saved[1] / "spec.yaml")))


def test_saved_spec_composes_the_same_model(saved, images):
    again = compose(saved[1] / "spec.yaml")
    np.testing.assert_array_equal(
        answers(again, images), answers(saved[0], images)
    )


@pytest.mark.long
def test_runs_where_kmod_can_not_be_imported(saved, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    paths = [str(tmp_path / name) for name in ("images.npy", "answers.npz")]
    subprocess.run(
        [sys.executable, "-c", FOREIGN, *paths],
        cwd=saved[1],
        check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    found = np.load(paths[1])
    expected = answers(saved[0], images)
    for form in ("probabilities", "loaded"):
        np.testing.assert_allclose(found[form], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["class_id"], expected.argmax(1))
    assert found["class_id"].dtype == "int32"
    names = np.array(["no".encode(), "é".encode()])
    assert found["names"].tolist() == names.tolist()
    assert found["class_name"].tolist() == names[expected.argmax(1)].tolist()


def test_patch_takes_its_weak_model_along(
    weak, donor, digits, tmp_path, write_spec
):
    weak.save(tmp_path / "elsewhere.keras")
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: p\n"
        f"stores: {{d: {{path: {os.path.relpath(donor.path, tmp_path)}}}}}\n"
        "base: {path: elsewhere.keras, classes: [a, b, c]}\n"
        "patches:\n"
        "  - class: b\n"
        '    module: {store: d, class: "8"}\n'
        "    layer:\n"
        "      module: [0, 1, 0]\n"
        "      weak: [1, 0.5, 1]\n"
        "      bias: [0, -1, 0]\n"
    )
    model = compose(path)
    save(model, tmp_path / "out", formats=["keras"])
    (tmp_path / "elsewhere.keras").write_text("another")
    with pytest.raises(ArtifactError, match="which is gone or another one"):
        save(model, tmp_path / "other", formats=["keras"])
    (tmp_path / "elsewhere.keras").unlink()
    with pytest.raises(ArtifactError, match="which is gone or another one"):
        save(model, tmp_path / "other", formats=["keras"])
    again = compose(tmp_path / "out" / "spec.yaml")
    images = digits.test.images[:9]
    np.testing.assert_allclose(
        answers(again, images), answers(model, images), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "name", ["model.keras", "spec.yaml", "saved_model/saved_model.pb"]
)
def test_changed_file(directory, name):
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"'{name}' has other bytes"):
        load(directory)


def test_only_a_savedmodel(saved, stores, tmp_path):
    out = tmp_path / "out"
    save(saved[0], out, formats=["savedmodel"])
    assert not (out / "model.keras").exists()
    with pytest.raises(ArtifactError, match="was written without one"):
        load(out)


def test_nothing_is_left_of_a_model_that_answers_otherwise(
    saved, tmp_path, monkeypatch
):
    form = dataclasses.replace(
        FORMS["keras"], predict=lambda *_: {"probabilities": np.ones(2)}
    )
    monkeypatch.setitem(FORMS, "keras", form)
    with pytest.raises(CheckError, match="must answer as the one in memory"):
        save(saved[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_directory(saved, directory):
    with pytest.raises(UsageError, match="must be new or empty"):
        save(saved[0], directory)
    save(saved[0], directory, formats=["keras"], overwrite=True)
    assert not (directory / "saved_model").exists()


@pytest.mark.parametrize("formats", [["keras", "tflite"], "keras"])
def test_formats_are_those_that_there_are(saved, tmp_path, formats):
    with pytest.raises(UsageError, match="`formats` must be a list of some"):
        save(saved[0], tmp_path / "out", formats=formats)
    assert list(tmp_path.iterdir()) == []


def test_savedmodel_needs_tensorflow(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match=r"\(`--format keras`\)"):
        save(saved[0], tmp_path / "out", formats=["savedmodel"])


@pytest.fixture(scope="module")
def everything(stores, tmp_path_factory):
    """The spec of a model with all there is; `size` is still to say."""
    folder = stores["a"].path.parent
    path = folder / "everything.yaml"
    path.write_text(
        "version: 1\n"
        "name: everything\n"
        "stores: {x: {path: a}, y: {path: b}}\n"
        "input: {shape: [12, 10, 3], range: [-1, 1], size: %s}\n"
        "classes:\n"
        "  - name: 3\n"
        "    any_of: [{store: x, class: cat}, {store: y, class: cat}]\n"
        "  - {name: 8, module: {store: y, class: no}}\n"
        "scores:\n"
        "  calibration: fit\n"
        "  data: {name: digits, split: validation}\n"
        "  output: logits\n"
        "  other: {name: none, threshold: 0.4}\n"
    )
    return path


@needs_onnx
@pytest.mark.parametrize("size", ["resize", "pad"])
def test_every_form_of_every_layer(everything, tmp_path, size):
    path = everything.with_name(f"{size}.yaml")
    path.write_text(everything.read_text() % size)
    model = compose(path)
    save(model, tmp_path / "out", formats=tuple(FORMS))
    draw = np.random.default_rng(0)
    images = draw.uniform(-1, 1, (5, 12, 10, 3)).astype("float32")
    expected = answers(model, images)
    for form in FORMS.values():
        found = form.predict(tmp_path / "out" / form.path, images)["logits"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    labels = (tmp_path / "out" / "labels.txt").read_text()
    assert labels.split() == ["3", "8", "none"]


@needs_onnx
def test_every_form_of_patches(weak, donor, digits, tmp_path):
    weak.save(tmp_path / "weak.keras")
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: p\n"
        f"stores: {{d: {{path: {os.path.relpath(donor.path, tmp_path)}}}}}\n"
        "base: {path: weak.keras, classes: [a, b, c]}\n"
        "patches:\n"
        "  - class: b\n"
        "    module: {store: d, class: 8}\n"
        "    layer:\n"
        "      module: [0, 1, 0]\n"
        "      weak: [1, 0.5, 1]\n"
        "      bias: [0, -1, 0]\n"
        "  - class: a\n"
        "    module: {store: d, class: 3}\n"
        "    combine: minmax\n"
        "    range: [-2, 4]\n"
        "  - {class: c, module: {store: d, class: 9}, combine: raw}\n"
    )
    model = compose(path)
    save(model, tmp_path / "out", formats=tuple(FORMS))
    images = digits.test.images[:9].astype("float32")
    expected = answers(model, images)
    for form in FORMS.values():
        found = form.predict(tmp_path / "out" / form.path, images)
        np.testing.assert_allclose(
            found["probabilities"], expected, rtol=0, atol=1e-4
        )


def test_store_that_changed_since_is_refused(stores, tmp_path):
    copy = shutil.copytree(stores["a"].path, tmp_path / "store")
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: pets\n"
        "stores: {x: {path: store}}\n"
        "classes:\n"
        "  - {name: cat, module: {store: x, class: cat}}\n"
        "  - {name: no, module: {store: x, class: no}}\n"
    )
    model = compose(path)
    (copy / "cat" / "saved_model.pb").write_bytes(b"another")
    with pytest.raises(IntegrityError, match="has other bytes"):
        save(model, tmp_path / "out", formats=["keras"])
    assert not (tmp_path / "out").exists()
