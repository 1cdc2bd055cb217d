import keras
import numpy as np
import pytest
from keras import layers

from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph import PassThrough
from kmod.graph import rebuild
from kmod.graph import register_channel_rule


@keras.saving.register_keras_serializable("test")
class ChannelScale(layers.Layer):
    """A user's layer: one factor for each channel."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.factor


@pytest.fixture
def own_layer():
    """A layer class that no other test has registered a rule for."""
    return type("OwnScale", (ChannelScale,), {})


def test_unknown_layer_pins_and_is_named(flow_of, own_layer):
    flow = flow_of(lambda x, y: own_layer(name="own")(y))
    assert flow.free == [0, 0, 0, 0]
    assert flow.pins == {"own": "kmod has no rule for OwnScale layers"}


def test_pins_in_words_name_the_worst_layers(flow_of, conv, own_layer):
    def body(image, first):
        second = conv("second", kernels=6)(first)
        return layers.Softmax(name="shares")(second)

    words = flow_of(body).graph.pins_in_words()
    assert words == (
        "Of 10 kernels, layer 'shares' pins 6, because it normalises over "
        "channels. `kmod inspect` lists all."
    )
    words = flow_of(lambda x, y: own_layer(name="own")(y)).graph.pins_in_words()
    assert "'own' pins 4, because kmod has no rule for OwnScale" in words
    assert "Teach kmod a layer of your own with `kmod.register_ch" in words
    assert flow_of(lambda x, y: y).graph.pins_in_words() == ""


class Forgetful(layers.Layer):
    def __init__(self, factor):
        super().__init__(name="forgetful")
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {}


def test_layer_must_come_from_its_config(flow_of):
    flow = flow_of(lambda x, y: Forgetful(2)(y))
    message = "'forgetful' of type Forgetful, whose .* Mend its `get_config`"
    with pytest.raises(UnsupportedModelError, match=message):
        rebuild(flow.graph)


def test_unknown_layer_is_kept_as_it_is(flow_of, own_layer):
    flow = flow_of(lambda x, y: own_layer(name="own")(y))
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    copy = rebuild(flow.graph)
    assert copy is not flow.model
    np.testing.assert_allclose(copy(images), flow.model(images), atol=1e-6)


def test_rule_for_a_layer_of_ones_own(flow_of, own_layer):
    register_channel_rule(own_layer, PassThrough(weights={0: -1}))
    flow = flow_of(lambda x, y: own_layer(name="own")(y))
    assert flow.at("own") == [0, 1, 2, 3]
    assert flow.pins == {}
    layer = flow.model.get_layer("own")
    layer.set_weights([np.arange(4.0)])
    cut = rebuild(flow.graph, np.array([0, 1, 0, 1]))
    (factor,) = cut.get_layer("own").get_weights()
    assert factor.tolist() == [1, 3]


def test_rule_may_return_the_layer_itself(flow_of, own_layer):
    class Same(PassThrough):
        def cut(self, call, inputs, outputs):
            return call.operation, call.operation.get_weights()

    register_channel_rule(own_layer, Same())
    flow = flow_of(lambda x, y: own_layer(name="own")(y))
    layer = flow.model.get_layer("own")
    assert rebuild(flow.graph).get_layer("own") is not layer


def test_rule_replaces_the_one_that_kmod_has(flow_of):
    class Softer(layers.Softmax):
        pass

    register_channel_rule(Softer, PassThrough())
    assert flow_of(lambda x, y: Softer()(y)).free == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "layer_class", [pytest.param(layers.ReLU(), id="object"), int]
)
def test_rule_needs_a_layer_class(layer_class):
    with pytest.raises(UsageError, match="must be a subclass.*layer_class="):
        register_channel_rule(layer_class, PassThrough())


def test_rule_needs_a_rule():
    with pytest.raises(UsageError, match="LayerRule` instance.*rule='pass'"):
        register_channel_rule(ChannelScale, "pass")
