import inspect

import keras
import numpy as np
import pytest

from kmod.modular.heads import Heads


def logits(batch=5, rows=4):
    return np.random.default_rng(0).normal(size=(batch, rows, 4))


def heads(hidden_units, randomised=True):
    layer = Heads(4, hidden_units, seed=1)
    layer.build((None, None, 4))
    if randomised:
        generator = np.random.default_rng(1)
        for weight in layer.weights:
            weight.assign(generator.normal(size=weight.shape))
    return layer


def test_linear_heads_start_as_own_logit_minus_the_mean():
    own = logits()
    own[:] = own[:, :1]  # Unmasked modules all have the source's logits.
    scores = np.array(heads(0, randomised=False)(own))
    by_hand = own[0, 0, 2] - own[0, 0].mean()
    assert scores[0, 2] == pytest.approx(by_hand, rel=1e-5)
    np.testing.assert_array_equal(
        scores.argsort(axis=1), own[:, 0].argsort(axis=1)
    )


@pytest.mark.parametrize("hidden_units", [0, 3])
def test_layers_for_answer_the_same(hidden_units):
    layer, values = heads(hidden_units), logits()
    expected = np.array(layer(values))
    for index in range(4):
        answer = values[:, index]
        for part in layer.layers_for(index):
            answer = part(answer)
        np.testing.assert_allclose(answer[:, 0], expected[:, index], rtol=1e-4)


@pytest.mark.parametrize("hidden_units", [0, 3])
def test_drawn_rows_have_the_heads_of_their_classes(hidden_units):
    layer, values = heads(hidden_units), logits()
    classes = np.random.default_rng(2).permuted([np.arange(4)] * 5, axis=1)
    drawn = np.take_along_axis(values, classes[..., None], axis=1)
    expected = np.take_along_axis(np.array(layer(values)), classes, axis=1)
    np.testing.assert_allclose(layer(drawn, classes), expected, rtol=1e-4)


def test_hidden_heads_start_from_the_seed():
    first, second = heads(3, randomised=False), heads(3, randomised=False)
    for one, two in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.ptp(first.get_weights()[0]) > 0


def test_weights_are_float32_under_mixed_precision():
    layer = Heads(4, 3, dtype="mixed_bfloat16")
    layer.build((None, None, 4))
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_config_holds_every_argument():
    layer = Heads(4, 3, seed=7, name="own")
    config = layer.get_config()
    arguments = set(inspect.signature(Heads).parameters) - {"kwargs"}
    assert arguments <= config.keys()
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 0), "num_classes=1"), ((3, -1), "hidden_units=-1")],
)
def test_refusal(arguments, message):
    with pytest.raises(ValueError, match=f"at least 2.*{message}"):
        Heads(*arguments)
