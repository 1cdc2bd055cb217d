import os

import keras
import numpy as np
import pytest

from kmod.composition.composer import compose
from kmod.composition.patched_model import build_patched
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.modules.cut import log_odds_model
from kmod.spec.model import Coefficients

ALL = tuple((name, "a", name) for name in ("cat", "dog", "T-shirt/top", "no"))
MIXED = (("dog", "b", "cat"), ("cat", "a", "cat"), ("bag", "a", "no"))


def softmax_of(modules, images, calibrated=True):
    """What the spec means, computed module by module."""
    columns = []
    for module in modules:
        model = log_odds_model(module.model)
        if not calibrated:
            model = keras.Model(model.input, model.layers[-1].input)
        columns.append(model.predict(images, verbose=0))
    scores = np.concatenate(columns, axis=1)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [ALL, MIXED], ids=["one-store", "mixed"])
@pytest.mark.parametrize("calibration", ["stored", "none"])
def test_answers_are_those_of_the_modules(
    stores, write_spec, images, classes, calibration
):
    model = compose(write_spec(classes, scores={"calibration": calibration}))
    expected = softmax_of(
        [stores[store][module] for _, store, module in classes],
        images,
        calibrated=calibration == "stored",
    )
    answers = model.predict(images, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)
    assert answers.dtype == "float32"
    assert model.class_names == tuple(name for name, *_ in classes)


def test_stem_is_built_once(stores, write_spec):
    model = compose(write_spec(ALL))
    names = [layer.name for layer in model.layers]
    assert "shared_conv_1" in names and "shared_conv_2" in names
    assert "t-shirt-top_conv_3" in names
    modules = [stores["a"][name].model for name, *_ in ALL]
    shared = sum(
        layer.count_params()
        for layer in model.layers
        if layer.name.startswith("shared")
    )
    total = sum(module.count_params() for module in modules)
    assert shared > 0
    assert model.count_params() == total - shared * (len(ALL) - 1)


def test_modules_of_different_sources_share_nothing(stores, write_spec):
    classes = (("cat", "a", "cat"), ("dog", "b", "dog"))
    model = compose(write_spec(classes))
    total = sum(
        stores[store][name].model.count_params() for name, store, _ in classes
    )
    assert model.count_params() == total


def test_input_and_output_are_named(write_spec):
    model = compose(write_spec())
    assert model.name == "pets"
    assert model.inputs[0].name == "image"
    assert model.layers[-1].name == "probabilities"
    assert model.layers[-2].name == "log_odds"
    assert isinstance(model.layers[-2], keras.layers.Concatenate)


def test_damaged_module(stores, write_spec):
    path = write_spec()
    file = stores["a"].path / "cat" / "assets.extra" / "module.keras"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + b"x")
        with pytest.raises(IntegrityError, match="has other bytes"):
            compose(path)
    finally:
        file.write_bytes(content)


def test_base_must_have_the_classes_of_the_spec(write_spec, weak):
    path = write_spec(
        classes=(),
        base={"path": "weak.keras", "classes": ["cat", "dog"]},
        patches=[{"class": "cat", "module": {"store": "a", "class": "cat"}}],
    )
    weak.save(path.parent / "weak.keras")
    with pytest.raises(ArtifactError, match="names 2 classes of its base"):
        compose(path)


def test_patch_without_coefficients_asks_the_module_alone(
    weak, donor, digits, tmp_path
):
    weak.save(tmp_path / "weak.keras")
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: p\n"
        f"stores: {{d: {{path: {os.path.relpath(donor.path, tmp_path)}}}}}\n"
        "base: {path: weak.keras, classes: [a, b, c]}\n"
        "patches: [{class: b, module: {store: d, class: 8}}]\n"
    )
    model = compose(path)
    images = digits.test.images[:20].astype("float32")
    alone = Coefficients(module=1.0, weak=0.0, bias=0.0)
    expected = build_patched(weak, 1, donor["8"], alone)
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        expected.predict(images, verbose=0),
        rtol=0,
        atol=1e-6,
    )
    assert model.class_names == ("a", "b", "c")
