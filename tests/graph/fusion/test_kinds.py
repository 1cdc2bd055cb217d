import keras
import pytest
from keras import layers

from kmod.graph.fusion.kinds import is_pooling
from kmod.graph.fusion.kinds import kind_of
from kmod.graph.fusion.kinds import likeness
from kmod.graph.trace import trace


def call_of(function, shape=(8, 8, 2)):
    """The last call of a model."""
    image = keras.Input(shape)
    return trace(keras.Model(image, function(image))).calls[-1]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (layers.Conv2D(2, 3), "linear"),
        (layers.Conv2D(2, 3, groups=2), None),
        (layers.MaxPooling2D(data_format="channels_first"), None),
        (layers.DepthwiseConv2D(3), None),
        (layers.Dense(2), "linear"),
        (layers.MaxPooling2D(), "channelwise"),
        (layers.ReLU(), "channelwise"),
        (layers.Activation("tanh"), "channelwise"),
        (layers.Activation("softmax"), None),
        (layers.PReLU(), None),
        (layers.LayerNormalization(), None),
        (layers.Flatten(), "flatten"),
        (lambda x: layers.Concatenate()([x, x]), "concatenate"),
        (lambda x: layers.Concatenate(axis=1)([x, x]), None),
        (lambda x: keras.ops.concatenate([x, x], axis=-1), "concatenate"),
        (lambda x: x + x, "channelwise"),
        (lambda x: x * 2.0, "channelwise"),
        (lambda x: x * keras.ops.ones((2,)), None),
        (lambda x: keras.ops.relu(x), "channelwise"),
    ],
)
def test_kind_of(function, kind):
    assert kind_of(call_of(function)) == kind


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        (layers.Conv2D(2, 3), layers.Conv2D(5, 3), True),
        (layers.Conv2D(2, 3), layers.Conv2D(2, 1), False),
        (layers.Conv2D(2, 3), layers.Conv2D(2, 3, strides=2), False),
        (layers.Conv2D(2, 3), layers.Conv2D(2, 3, activation="relu"), False),
        (
            layers.Conv2D(2, 3),
            layers.Conv2D(2, 3, kernel_regularizer="l2"),
            True,
        ),
        (layers.Dense(2), layers.Dense(2, use_bias=False), False),
        (lambda x: x * 2.0, lambda x: x * 2.0, True),
        (lambda x: x * 2.0, lambda x: x * 3.0, False),
    ],
)
def test_likeness(one, other, is_alike):
    keys = [likeness(call_of(function)) for function in (one, other)]
    assert (keys[0] == keys[1]) == is_alike


def test_likeness_needs_images_of_one_size_but_not_channels():
    keys = [
        likeness(call_of(layers.ReLU(), shape))
        for shape in ((8, 8, 2), (8, 8, 3), (8, 4, 2))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_is_pooling():
    assert is_pooling(call_of(layers.AveragePooling2D(2)))
    assert is_pooling(call_of(layers.GlobalMaxPooling2D()))
    assert not is_pooling(call_of(layers.ReLU()))
