import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from kmod.composition.composer import compose
from kmod.composition.composer import compose_plan
from kmod.composition.lock import check_lock
from kmod.composition.manifest import read_composition_manifest
from kmod.composition.plan import plan
from kmod.composition.saving import load_composition
from kmod.composition.saving import save_composition
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.export.write import FORMS
from kmod.spec.loader import load_spec

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
    planned = plan(load_spec(path))
    model = compose_plan(planned)
    directory = tmp_path_factory.mktemp("composed") / "pets"
    save_composition(model, planned, directory, metrics={"test": {"x": 0.5}})
    return model, directory


@pytest.fixture
def directory(saved, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(saved[1], tmp_path / "moved")


def answers(model, images):
    return model.predict(images, verbose=0)


def test_round_trip(saved, directory, images):
    loaded = load_composition(directory)
    assert loaded.class_names == ("no", "é")
    np.testing.assert_allclose(
        answers(loaded, images), answers(saved[0], images), rtol=0, atol=1e-6
    )


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
    planned = plan(load_spec(write_spec()))
    model = compose_plan(planned)
    save_composition(model, planned, tmp_path / "out", formats=["keras"])
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
        "    coefficients: {module: 1, weak: 0.5, bias: -1}\n"
    )
    planned = plan(load_spec(path))
    model = compose_plan(planned)
    save_composition(model, planned, tmp_path / "out", formats=["keras"])
    (tmp_path / "elsewhere.keras").unlink()
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
        load_composition(directory)


def test_only_a_savedmodel(saved, stores, tmp_path):
    planned = plan(load_spec(saved[1] / "spec.yaml"))
    out = tmp_path / "out"
    save_composition(saved[0], planned, out, formats=["savedmodel"])
    assert not (out / "model.keras").exists()
    with pytest.raises(ArtifactError, match="was written without one"):
        load_composition(out)


def test_nothing_is_left_of_a_model_that_answers_otherwise(
    saved, tmp_path, monkeypatch
):
    planned = plan(load_spec(saved[1] / "spec.yaml"))
    form = dataclasses.replace(
        FORMS["keras"], ask=lambda *_: {"probabilities": np.ones(2)}
    )
    monkeypatch.setitem(FORMS, "keras", form)
    with pytest.raises(CheckError, match="must answer as the one in memory"):
        save_composition(saved[0], planned, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_directory(saved, directory):
    planned = plan(load_spec(saved[1] / "spec.yaml"))
    with pytest.raises(UsageError, match="must be new or empty"):
        save_composition(saved[0], planned, directory)
    save_composition(
        saved[0], planned, directory, formats=["keras"], overwrite=True
    )
    assert not (directory / "saved_model").exists()


def test_savedmodel_needs_tensorflow(saved, tmp_path, monkeypatch):
    planned = plan(load_spec(saved[1] / "spec.yaml"))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match=r"\(`--format keras`\)"):
        save_composition(
            saved[0], planned, tmp_path / "out", formats=["savedmodel"]
        )


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
    planned = plan(load_spec(path))
    model = compose_plan(planned)
    save_composition(model, planned, tmp_path / "out", formats=tuple(FORMS))
    draw = np.random.default_rng(0)
    images = draw.uniform(-1, 1, (5, 12, 10, 3)).astype("float32")
    expected = answers(model, images)
    for form in FORMS.values():
        found = form.ask(tmp_path / "out" / form.path, images)["logits"]
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
        "    coefficients: {module: 1, weak: 0.5, bias: -1}\n"
        "  - class: a\n"
        "    module: {store: d, class: 3}\n"
        "    combine: minmax\n"
        "    range: [-2, 4]\n"
        "  - {class: c, module: {store: d, class: 9}, combine: raw}\n"
    )
    planned = plan(load_spec(path))
    model = compose_plan(planned)
    save_composition(model, planned, tmp_path / "out", formats=tuple(FORMS))
    images = digits.test.images[:9].astype("float32")
    expected = answers(model, images)
    for form in FORMS.values():
        found = form.ask(tmp_path / "out" / form.path, images)
        np.testing.assert_allclose(
            found["probabilities"], expected, rtol=0, atol=1e-4
        )
