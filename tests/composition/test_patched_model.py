import dataclasses

import keras
import numpy as np
import pytest

from kmod.composition.patched_model import Patch
from kmod.composition.patched_model import build_patched
from kmod.errors import ArtifactError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import InputContract
from kmod.spec.model import PatchLayer

LAYER = PatchLayer((0.1, 0.9, 0.0), (0.5, 0.6, 0.7), (0.2, -0.3, 0.0))


@pytest.fixture(scope="module")
def test_images(digits):
    return digits.test.images[:50].astype("float32")


def patched_model(weak, patches):
    return build_patched(rebuild(channel_graph(weak)), patches)


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
def test_module_answers_alone_without_a_layer(weak, donor, test_images, target):
    module = donor["8"]
    patched = patched_model(weak, [Patch(target, module)])
    p = weak.predict(test_images, verbose=0).astype("float64")
    s = log_odds_model(module.model).predict(test_images, verbose=0)[:, 0]
    scores = np.log(p) - np.log1p(-p[:, [target]])
    scores[:, target] = s
    expected = np.exp(log_softmax(scores))
    answers = patched.predict(test_images, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)


def test_ranking_of_the_other_classes_stays(weak, donor, test_images):
    patched = patched_model(weak, [Patch(1, donor["8"])])
    before, after = (
        np.delete(model.predict(test_images, verbose=0), 1, axis=1)
        for model in (weak, patched)
    )
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))


@pytest.mark.parametrize("targets", [(0, 1), (2, 0), (0, 1, 2)])
def test_several_patches_at_once(weak, donor, test_images, targets):
    patches = [
        Patch(target, donor[name])
        for target, name in zip(targets, ("8", "3", "9"))
    ]
    p = weak.predict(test_images, verbose=0).astype("float64")
    rest = [index for index in range(3) if index not in targets]
    scores = np.log(p) - (np.log(p[:, rest].sum(1))[:, None] if rest else 0)
    for patch in patches:
        own = scores_of(patch.module, test_images, "log_odds")
        scores[:, patch.target] = own
    answers = patched_model(weak, patches).predict(test_images, verbose=0)
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
    patched = patched_model(weak, [Patch(1, donor["8"], layer=LAYER)])
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
    answers = patched_model(weak, patches).predict(test_images, verbose=0)
    np.testing.assert_allclose(
        answers, np.exp(log_softmax(scores)), rtol=0, atol=1e-4
    )


def test_auxiliary_modules_add_to_the_scores(weak, donor, test_images):
    factors = ((0.3, -0.2, 0.1), (0.0, 0.4, -0.5))
    layer = dataclasses.replace(LAYER, auxiliary=factors)
    auxiliary = donor["3"], donor["9"]
    patch = Patch(1, donor["8"], auxiliary=auxiliary, layer=layer)
    p = weak.predict(test_images, verbose=0).astype("float64")
    s = scores_of(donor["8"], test_images, "log_odds")
    scores = layer_formula(LAYER, np.log(p), s)
    for module, own in zip(auxiliary, factors):
        log_odds = scores_of(module, test_images, "log_odds")
        scores += log_odds[:, None] * own
    answers = patched_model(weak, [patch]).predict(test_images, verbose=0)
    np.testing.assert_allclose(
        answers, np.exp(log_softmax(scores)), rtol=0, atol=1e-4
    )


def divided(scores, log_odds, target, others, weak_share=0.3):
    """What `build_patched` says of the rule `divided`, in probabilities."""
    p, m = (np.exp(log_softmax(each)) for each in (scores, log_odds))
    whole = p[:, [target, *others]].sum(axis=1)
    ranks = p[:, others] ** weak_share * m[:, 1:] ** (1 - weak_share)
    ranks /= ranks.sum(axis=1, keepdims=True)
    result = p.copy()
    result[:, target] = whole * m[:, 0]
    result[:, others] = (whole * (1 - m[:, 0]))[:, None] * ranks
    return result


@pytest.mark.parametrize(
    "others, own", [([2], {}), ([2, 0], {}), ([2, 0], {"weak_share": 0.8})]
)
def test_modules_divide_what_the_weak_model_gives(
    weak, donor, test_images, others, own
):
    modules = [donor[name] for name in ("3", "8", "9")]
    auxiliary = tuple(modules[index] for index in others)
    patch = Patch(1, modules[1], "divided", auxiliary, tuple(others), **own)
    scores = np.log(weak.predict(test_images, verbose=0).astype("float64"))
    log_odds = np.stack(
        [
            scores_of(module, test_images, "log_odds")
            for module in (patch.module, *auxiliary)
        ],
        axis=1,
    )
    wanted = divided(scores, log_odds, 1, others, **own)
    np.testing.assert_allclose(wanted.sum(axis=1), 1)
    answers = patched_model(weak, [patch]).predict(test_images, verbose=0)
    np.testing.assert_allclose(answers, wanted, rtol=0, atol=1e-4)
    assert np.abs(answers - np.exp(scores)).max() > 0.1
    if others == [2]:  # What the modules have no class of stays.
        np.testing.assert_allclose(
            answers[:, 0], np.exp(scores[:, 0]), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(
    "undivided",
    [(), ((0.5, 0.0, -0.2), (0.1, 0.4, 0.0), (0.0, -0.3, 0.6))],
    ids=["divided", "undivided-too"],
)
def test_layer_follows_the_division(weak, donor, test_images, undivided):
    layer = dataclasses.replace(
        LAYER, auxiliary=((0.3, -0.2, 0.1),), undivided=undivided
    )
    patch = Patch(1, donor["8"], "divided", (donor["9"],), (2,), layer)
    scores = np.log(weak.predict(test_images, verbose=0).astype("float64"))
    own, other = (
        scores_of(donor[name], test_images, "log_odds") for name in "89"
    )
    before = scores
    scores = np.log(divided(scores, np.stack([own, other], axis=1), 1, [2]))
    scores = layer_formula(LAYER, scores, own)
    if undivided:
        scores += before @ np.array(undivided)
    scores += other[:, None] * layer.auxiliary[0]
    answers = patched_model(weak, [patch]).predict(test_images, verbose=0)
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
    answers = patched_model(weak, patches).predict(test_images, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)
    assert raw.max() > 2 or raw.min() < -1  # It is not cut off.


def test_rules_mix(weak, donor, test_images):
    calibrated = Patch(1, donor["8"])
    replaced = Patch(0, donor["3"], "raw")
    one, both = (
        patched_model(weak, patches).predict(test_images, verbose=0)
        for patches in ([calibrated], [replaced, calibrated])
    )
    np.testing.assert_allclose(both[:, 1:], one[:, 1:], rtol=0, atol=1e-5)
    probability = scores_of(donor["3"], test_images, "probability")
    np.testing.assert_allclose(both[:, 0], probability, rtol=0, atol=1e-5)


def test_module_gets_an_adapter(weak, donor, test_images):
    theirs = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    ours = InputContract((8, 8, 1), "float32", (0.0, 1.0))
    image = keras.Input((8, 8, 1))
    small = keras.Model(image, weak(keras.layers.Rescaling(255.0)(image)))
    adaptation = plan_adaptation(ours, theirs)
    patched = patched_model(
        small, [Patch(1, donor["8"], adaptation=adaptation)]
    )
    expected = patched_model(weak, [Patch(1, donor["8"])])
    np.testing.assert_allclose(
        patched.predict(test_images / 255, verbose=0),
        expected.predict(test_images, verbose=0),
        rtol=0,
        atol=1e-4,
    )


def test_two_classes(strong, donor, test_images):
    logits = strong.get_layer("logits").output[:, :2]
    weak = keras.Model(strong.input, keras.layers.Softmax()(logits))
    patched = patched_model(weak, [Patch(1, donor["8"])])
    answers = patched.predict(test_images, verbose=0)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


def test_file_needs_no_custom_object(weak, donor, test_images, tmp_path):
    patched = patched_model(weak, [Patch(1, donor["8"])])
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
    patched_model(weak, [Patch(1, donor["8"])])
    assert weak.to_json() == before[0]
    for new, old in zip(weak.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(new, old)


def test_images_must_fit(donor):
    image = keras.Input((9, 9, 1))
    flat = keras.layers.Flatten()(image)
    weak = keras.Model(image, keras.layers.Dense(3)(flat))
    with pytest.raises(ArtifactError, match=r"shape \(9, 9, 1\). Received"):
        patched_model(weak, [Patch(1, donor["8"])])
