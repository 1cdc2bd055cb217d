"""A cut module answers as the masked model does, on every topology."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from kmod.graph.channels import PINNED
from kmod.masks.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model

TOLERANCE = 1e-4


def conv(x, filters, name, size=3, **kwargs):
    x = layers.Conv2D(filters, size, padding="same", name=name, **kwargs)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU()(x)


def plain(x):
    return layers.Flatten()(layers.MaxPooling2D()(conv(x, 6, "a")))


def residual(x):
    x = conv(x, 6, "a")
    return layers.Flatten()(layers.Add()([x, conv(x, 6, "b")]))


def operator_residual(x):
    x = conv(x, 6, "a")
    return layers.GlobalAveragePooling2D()(x + conv(x, 6, "b"))


def inception(x):
    x = conv(x, 5, "stem")
    branches = [conv(x, 4, "one", 1), conv(x, 6, "three"), conv(x, 3, "five")]
    x = conv(layers.Concatenate()(branches), 4, "last")
    return layers.GlobalMaxPooling2D()(x)


def squeeze_and_excite(x):
    x = conv(x, 8, "a")
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 8))(gate)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    return layers.Flatten()(layers.Multiply()([x, gate]))


def separable(x):
    x = conv(x, 4, "a")
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depth")(x)
    x = layers.BatchNormalization(name="depth_bn")(x)
    x = layers.SeparableConv2D(6, 3, padding="same", name="separable")(x)
    return layers.Flatten()(layers.PReLU(shared_axes=[1, 2])(x))


def asymmetric(x):
    x = layers.ZeroPadding2D(((0, 1), (2, 0)))(conv(x, 6, "a"))
    x = layers.Conv2D(5, 3, strides=2, name="b")(x)
    return layers.Flatten()(layers.AveragePooling2D(2, padding="same")(x))


def shared_layer(x):
    twice = layers.Conv2D(6, 3, padding="same", name="twice")
    x = conv(x, 6, "a")
    return layers.Flatten()(twice(layers.ReLU()(twice(x))))


def nested(x):
    inner_in = keras.Input((6, 6, 5))
    first = conv(inner_in, 4, "a")
    inner = keras.Model(inner_in, [first, conv(first, 4, "b")], name="inner")
    one, two = inner(conv(x, 5, "a"))
    return layers.Flatten()(layers.Concatenate()([one, two]))


def transposed(x):
    x = layers.Conv2DTranspose(5, 2, strides=2, name="up")(conv(x, 4, "a"))
    return layers.GlobalAveragePooling2D()(layers.LeakyReLU()(x))


def split(x):
    left, right = ops.split(conv(x, 8, "a"), 2, axis=-1)
    return layers.Flatten()(layers.Concatenate()([conv(left, 3, "b"), right]))


def pinned_norm(x):
    x = layers.LayerNormalization()(conv(x, 5, "a"))
    return layers.Flatten()(conv(x, 4, "b"))


def hidden_units(x):
    x = layers.Dense(7, activation="relu", name="h1")(plain(x))
    x = layers.Dropout(0.5)(x)
    return layers.Dense(6, activation="tanh", name="h2")(x)


TOPOLOGIES = [
    plain,
    residual,
    operator_residual,
    inception,
    squeeze_and_excite,
    separable,
    asymmetric,
    shared_layer,
    nested,
    transposed,
    split,
    pinned_norm,
    hidden_units,
]


def source_of(topology):
    """A classifier of random weights and statistics."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    answer = layers.Dense(3, activation="softmax", name="answer")
    model = keras.Model(image, answer(topology(image)))
    draw = np.random.default_rng(1)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.path else -0.7
        weight.assign(draw.uniform(low, 1, weight.shape))
    return model


def random_masks(modular, retention, draw):
    place, kernels = modular.placement, modular.kernels
    masks = draw.uniform(size=(3, kernels.num_groups)) < retention
    masks |= ~place.may_go
    for family in place.families:
        empty = ~masks[:, family].any(axis=1)
        masks[empty, draw.choice(family)] = True
    return masks[:, kernels.groups].astype(int)


def randomised(source, retention, **kwargs):
    modular = ModularModel(source, **kwargs)
    draw = np.random.default_rng(2)
    modular.kernel_masks = random_masks(modular, retention, draw)
    modular.scale.assign(draw.uniform(0.5, 1.5, modular.scale.shape))
    modular.shift.assign(draw.uniform(-0.5, 0.5, modular.shift.shape))
    modular.set_calibration(draw.uniform(0.5, 2, 3), draw.normal(size=3))
    return modular


def images():
    return np.random.default_rng(3).normal(size=(16, 6, 6, 2)).astype("float32")


def gap(module, modular, index):
    expected = modular.class_log_odds(images())[:, index]
    answers = log_odds_model(module).predict(images(), verbose=0)[:, 0]
    return np.abs(answers - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda t: t.__name__)
def test_cut_module_answers_as_masked_model(topology):
    source = source_of(topology)
    modular = randomised(source, 0.5)
    assert 0 < modular.retention_rate < 1
    module = cut_module(modular, 1)
    assert gap(module, modular, 1) < TOLERANCE
    assert module.count_params() < source.count_params() + 10


@pytest.mark.parametrize("retention", [0.3, 0.9])
@pytest.mark.parametrize("kwargs", [{"mask_from": "b"}, {"recipe": "paper"}])
def test_stem_and_hidden_heads_are_exact(retention, kwargs):
    modular = randomised(source_of(residual_chain), retention, **kwargs)
    assert gap(cut_module(modular, 2), modular, 2) < TOLERANCE


def residual_chain(x):
    x = conv(x, 6, "a")
    y = conv(x, 6, "b")
    return layers.Flatten()(conv(layers.Add()([y, conv(y, 6, "c")]), 5, "d"))


def test_mask_in_front_of_normalisation_fails_the_check():
    """Negative control: zero before BatchNormalization is not removal."""
    modular = randomised(source_of(plain), 0.5)
    modular.shift.assign(np.full(modular.shift.shape, 2.0))
    convolution = modular.flat_source.get_layer("a")
    mask = modular.kernel_masks[1]
    kernel, bias = convolution.get_weights()
    module = cut_module(modular, 1)
    modular.kernel_masks = np.ones_like(modular.kernel_masks)
    convolution.set_weights([kernel * mask, bias * mask])
    assert gap(module, modular, 1) > 100 * TOLERANCE


def test_unmasked_modules_rank_as_the_source():
    source = source_of(inception)
    modular = ModularModel(source)
    expected = source.predict(images(), verbose=0)
    scores = modular.class_scores(images())
    np.testing.assert_array_equal(scores.argmax(1), expected.argmax(1))


def test_source_is_not_changed():
    source = source_of(residual)
    before, config = source.get_weights(), source.get_config()
    modular = randomised(source, 0.5)
    modular.compile()
    labels = np.zeros(16, int)
    modular.fit(images(), labels, epochs=1, verbose=0)
    for old, new in zip(before, source.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert source.get_config() == config
    assert source.trainable


def test_cut_channels_are_gone():
    modular = randomised(source_of(plain), 0.5)
    module = cut_module(modular, 0)
    kept = int(modular.kernel_masks[0].sum())
    assert module.get_layer("a").filters == kept
    channels = modular.graph.map_of(modular.graph.trace.calls[0].outputs[0])
    assert PINNED not in channels.ids
