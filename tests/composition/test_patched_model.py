import dataclasses

import keras
import numpy as np
import pytest

from kmod.composition.patched_model import Patch
from kmod.composition.patched_model import build_patched
from kmod.errors import ArtifactError
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import InputContract
from kmod.spec.model import Coefficients
from kmod.spec.model import PatchLayer

GIVEN = Coefficients(module=0.7, weak=0.4, bias=-0.3)
LAYER = PatchLayer((0.1, 0.9, 0.0), (0.5, 0.6, 0.7), (0.2, -0.3, 0.0))


@pytest.fixture(scope="module")
def test_images(digits):
    return digits.test.images[:50].astype("float32")


def given_patch(donor, target=1, name="8", **changes):
    return Patch(target, donor[name], coefficients=GIVEN, **changes)


def scores_of(module, images, layer):
    """A module's answers in front of or behind its calibration."""
    calibration = module.model.get_layer("calibration")
    outputs = {
        "raw": calibration.input,
        "log_odds": calibration.output,
        "probability": module.model.output,
    }
    model = keras.Model(module.model.input, outputs[layer])
    return model.predict(images, verbose=0)[:, 0].astype("float64")


def log_softmax(values):
    return values - np.logaddexp.reduce(values, axis=1)[:, None]


@pytest.mark.parametrize("target", [0, 1, 2])
def test_scores_are_those_of_the_formula(weak, donor, test_images, target):
    module = donor["8"]
    patched = build_patched(weak, [Patch(target, module, coefficients=GIVEN)])
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
    patched = build_patched(weak, [given_patch(donor)])
    before, after = (
        np.delete(model.predict(test_images, verbose=0), 1, axis=1)
        for model in (weak, patched)
    )
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))


@pytest.mark.parametrize("targets", [(0, 1), (2, 0), (0, 1, 2)])
def test_several_patches_at_once(weak, donor, test_images, targets):
    patches = [
        Patch(target, donor[name], coefficients=Coefficients(0.7, w, -0.3))
        for target, name, w in zip(targets, ("8", "3", "9"), (0.4, 0.0, 0.2))
    ]
    p = weak.predict(test_images, verbose=0).astype("float64")
    rest = [index for index in range(3) if index not in targets]
    scores = np.log(p) - (np.log(p[:, rest].sum(1))[:, None] if rest else 0)
    for patch in patches:
        own = p[:, patch.target]
        scores[:, patch.target] = (
            0.7 * scores_of(patch.module, test_images, "log_odds")
            + patch.coefficients.weak * np.log(own / (1 - own))
            - 0.3
        )
    answers = build_patched(weak, patches).predict(test_images, verbose=0)
    np.testing.assert_allclose(
        answers, np.exp(log_softmax(scores)), rtol=0, atol=1e-4
    )


def layer_formula(layer, scores, log_odds):
    return (
        np.array(layer.weak) * log_softmax(scores)
        + np.array(layer.module) * log_odds[:, None]
        + np.array(layer.bias)
    )


def test_layer_scores_are_those_of_the_formula(weak, donor, test_images):
    patched = build_patched(weak, [Patch(1, donor["8"], layer=LAYER)])
    p = weak.predict(test_images, verbose=0).astype("float64")
    s = scores_of(donor["8"], test_images, "log_odds")
    scores = layer_formula(LAYER, np.log(p), s)
    log_odds = keras.Model(patched.input, patched.get_layer("log_odds").output)
    np.testing.assert_allclose(
        log_odds.predict(test_images, verbose=0), scores, rtol=0, atol=1e-3
    )
    np.testing.assert_allclose(
        patched.predict(test_images, verbose=0),
        np.exp(log_softmax(scores)),
        rtol=0,
        atol=1e-4,
    )


def test_layers_follow_each_other(weak, donor, test_images):
    other = PatchLayer((0.0, 0.1, 0.8), (1.0, 0.9, 0.5), (0.0, 0.0, 0.4))
    patches = [
        Patch(1, donor["8"], layer=LAYER),
        Patch(2, donor["9"], layer=other),
    ]
    scores = np.log(weak.predict(test_images, verbose=0).astype("float64"))
    for patch in patches:
        s = scores_of(patch.module, test_images, "log_odds")
        scores = layer_formula(patch.layer, scores, s)
    answers = build_patched(weak, patches).predict(test_images, verbose=0)
    np.testing.assert_allclose(
        answers, np.exp(log_softmax(scores)), rtol=0, atol=1e-4
    )


def test_supporting_modules_add_to_the_scores(weak, donor, test_images):
    factors = ((0.3, -0.2, 0.1), (0.0, 0.4, -0.5))
    layer = dataclasses.replace(LAYER, support=factors)
    support = donor["3"], donor["9"]
    patch = Patch(1, donor["8"], support=support, layer=layer)
    p = weak.predict(test_images, verbose=0).astype("float64")
    s = scores_of(donor["8"], test_images, "log_odds")
    scores = layer_formula(LAYER, np.log(p), s)
    for module, own in zip(support, factors):
        log_odds = scores_of(module, test_images, "log_odds")
        scores += log_odds[:, None] * own
    answers = build_patched(weak, [patch]).predict(test_images, verbose=0)
    np.testing.assert_allclose(
        answers, np.exp(log_softmax(scores)), rtol=0, atol=1e-4
    )


def test_published_rules_replace_the_probability(weak, donor, test_images):
    patches = [
        Patch(1, donor["8"], "minmax", range=(-1.0, 2.0)),
        Patch(2, donor["9"], "raw"),
    ]
    expected = weak.predict(test_images, verbose=0).astype("float64")
    raw = scores_of(donor["8"], test_images, "raw")
    expected[:, 1] = (raw + 1) / 3
    expected[:, 2] = scores_of(donor["9"], test_images, "probability")
    answers = build_patched(weak, patches).predict(test_images, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)
    assert raw.max() > 2 or raw.min() < -1  # It is not cut off.


def test_rules_mix(weak, donor, test_images):
    calibrated = given_patch(donor)
    replaced = Patch(0, donor["3"], "raw")
    alone, both = (
        build_patched(weak, patches).predict(test_images, verbose=0)
        for patches in ([calibrated], [replaced, calibrated])
    )
    np.testing.assert_allclose(both[:, 1:], alone[:, 1:], rtol=0, atol=1e-5)
    probability = scores_of(donor["3"], test_images, "probability")
    np.testing.assert_allclose(both[:, 0], probability, rtol=0, atol=1e-5)


def test_module_gets_an_adapter(weak, donor, test_images):
    theirs = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    ours = InputContract((8, 8, 1), "float32", (0.0, 1.0))
    image = keras.Input((8, 8, 1))
    small = keras.Model(image, weak(keras.layers.Rescaling(255.0)(image)))
    adaptation = plan_adaptation(ours, theirs)
    patched = build_patched(small, [given_patch(donor, adaptation=adaptation)])
    expected = build_patched(weak, [given_patch(donor)])
    np.testing.assert_allclose(
        patched.predict(test_images / 255, verbose=0),
        expected.predict(test_images, verbose=0),
        rtol=0,
        atol=1e-4,
    )


def test_two_classes(strong, donor, test_images):
    logits = strong.get_layer("logits").output[:, :2]
    weak = keras.Model(strong.input, keras.layers.Softmax()(logits))
    patched = build_patched(weak, [given_patch(donor)])
    answers = patched.predict(test_images, verbose=0)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


def test_file_needs_no_custom_object(weak, donor, test_images, tmp_path):
    patched = build_patched(weak, [given_patch(donor)])
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
    build_patched(weak, [given_patch(donor)])
    assert weak.to_json() == before[0]
    for new, old in zip(weak.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(new, old)


def test_images_must_fit(donor):
    image = keras.Input((9, 9, 1))
    flat = keras.layers.Flatten()(image)
    weak = keras.Model(image, keras.layers.Dense(3)(flat))
    with pytest.raises(ArtifactError, match=r"shape \(9, 9, 1\). Received"):
        build_patched(weak, [given_patch(donor)])
