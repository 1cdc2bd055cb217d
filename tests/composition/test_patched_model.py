import keras
import numpy as np
import pytest

from kmod.composition.patched_model import build_patched
from kmod.errors import ArtifactError
from kmod.modules.cut import log_odds_model
from kmod.spec.model import Coefficients

GIVEN = Coefficients(module=0.7, weak=0.4, bias=-0.3)


@pytest.fixture(scope="module")
def test_images(digits):
    return digits.test.images[:50].astype("float32")


def log_softmax(values):
    return values - np.logaddexp.reduce(values, axis=1)[:, None]


@pytest.mark.parametrize("target", [0, 1, 2])
def test_scores_are_those_of_the_formula(weak, donor, test_images, target):
    module = donor["8"]
    patched = build_patched(weak, target, module, GIVEN)
    p = weak.predict(test_images, verbose=0).astype("float64")
    s = log_odds_model(module.model).predict(test_images, verbose=0)[:, 0]
    scores = np.log(p) - np.log1p(-p[:, [target]])
    scores[:, target] = (
        GIVEN.module * s
        + GIVEN.weak * np.log(p[:, target] / (1 - p[:, target]))
        + GIVEN.bias
    )
    expected = np.exp(log_softmax(scores))
    answers = patched.predict(test_images, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)


def test_ranking_of_the_other_classes_stays(weak, donor, test_images):
    patched = build_patched(weak, 1, donor["8"], GIVEN)
    before, after = (
        np.delete(model.predict(test_images, verbose=0), 1, axis=1)
        for model in (weak, patched)
    )
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))


def test_two_classes(strong, donor, test_images):
    logits = strong.get_layer("logits").output[:, :2]
    weak = keras.Model(strong.input, keras.layers.Softmax()(logits))
    patched = build_patched(weak, 1, donor["8"], GIVEN)
    answers = patched.predict(test_images, verbose=0)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


def test_file_needs_no_custom_object(weak, donor, test_images, tmp_path):
    patched = build_patched(weak, 1, donor["8"], GIVEN)
    patched.save(tmp_path / "p.keras")
    loaded = keras.models.load_model(tmp_path / "p.keras", safe_mode=True)
    np.testing.assert_allclose(
        loaded.predict(test_images, verbose=0),
        patched.predict(test_images, verbose=0),
        rtol=0,
        atol=1e-6,
    )
    modules = {type(layer).__module__ for layer in loaded.layers}
    assert all(module.startswith("keras.src.") for module in modules)


def test_weak_model_is_not_changed(weak, donor):
    before = weak.to_json(), weak.get_weights()
    build_patched(weak, 1, donor["8"], GIVEN)
    assert weak.to_json() == before[0]
    for new, old in zip(weak.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(new, old)


def test_images_must_fit(donor):
    image = keras.Input((9, 9, 1))
    flat = keras.layers.Flatten()(image)
    weak = keras.Model(image, keras.layers.Dense(3)(flat))
    with pytest.raises(ArtifactError, match=r"shape \(9, 9, 1\). Received"):
        build_patched(weak, 0, donor["8"], GIVEN)
