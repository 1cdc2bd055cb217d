import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from kmod.errors import UnsupportedModelError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.exactness import measure_exactness
from kmod.graph.trace import RESERVED_NAMES
from kmod.graph.trace import trace


def names(model):
    return [call.name for call in trace(model).calls]


def block(name, kernels=4):
    return keras.Sequential(
        [layers.Conv2D(kernels, 1, name="conv"), layers.ReLU(name="relu")],
        name=name,
    )


def model_of(function, shape=(4, 4, 3)):
    image = keras.Input(shape)
    return keras.Model(image, function(image))


def test_calls_are_in_order_of_computation():
    def body(image):
        left = layers.Conv2D(4, 1, name="left")(image)
        right = layers.Conv2D(4, 1, name="right")(image)
        return layers.Add(name="add")([left, layers.ReLU(name="relu")(right)])

    traced = trace(model_of(body))
    known = {traced.input.index}
    for call in traced.calls:
        assert {ref.index for ref in call.inputs} <= known
        known |= {ref.index for ref in call.outputs}
    assert traced.calls[-1].name == "add"
    assert traced.output == traced.calls[-1].outputs[0]
    assert traced.output.shape == (None, 4, 4, 4)


def test_sequential_is_read_like_its_graph():
    model = keras.Sequential(
        [keras.Input((4, 4, 3), dtype="uint8"), layers.Conv2D(4, 1, name="a")]
    )
    traced = trace(model)
    assert [call.name for call in traced.calls] == ["a"]
    assert traced.input_dtype == "uint8"
    assert traced.input.shape == (None, 4, 4, 3)


def test_nested_models_are_unfolded():
    inner = model_of(lambda x: block("deep")(layers.ReLU(name="top")(x)))
    model = model_of(lambda x: block("last")(inner(x)))
    assert names(model) == ["top", "conv", "relu", "last_conv", "last_relu"]


def test_names_stay_unique_when_paths_do_not_help():
    first = block("first")
    second = layers.ReLU(name="second_conv")
    last = block("second")
    assert names(model_of(lambda x: last(second(first(x))))) == [
        "conv",
        "relu",
        "second_conv",
        "second_conv_2",
        "second_relu",
    ]


def test_names_have_no_slash():
    model = model_of(lambda x: layers.ReLU(name="a_b")(x))
    model.layers[-1]._name = model.layers[-1].name = "a/b"
    assert names(model) == ["a_b"]


@pytest.mark.parametrize("name", RESERVED_NAMES)
def test_names_of_a_modules_own_layers_are_kept_free(name):
    assert names(model_of(layers.ReLU(name=name))) == [f"{name}_2"]


def test_shared_layer_is_called_twice_under_one_name():
    shared = layers.Conv2D(3, 1, name="shared")
    traced = trace(model_of(lambda x: shared(shared(x))))
    first, second = traced.calls
    assert first.name == second.name == "shared"
    assert first.operation is second.operation
    assert first.outputs == second.inputs


def test_nested_model_called_twice_shares_its_layers():
    twice = block("twice", kernels=3)
    assert names(model_of(lambda x: twice(twice(x)))) == [
        "conv",
        "relu",
        "conv",
        "relu",
    ]


def test_outputs_of_a_nested_model_go_where_they_are_read():
    image = keras.Input((4, 4, 3))
    outputs = [layers.Conv2D(4, 1, name=name)(image) for name in "ab"]
    inner = keras.Model(image, outputs)

    def body(x):
        a, b = inner(x)
        return layers.Subtract(name="join")([b, a])

    *convs, join = trace(model_of(body)).calls
    made = {call.name: call.outputs[0] for call in convs}
    assert join.inputs == (made["b"], made["a"])


def test_operations_on_tensors_are_calls():
    traced = trace(model_of(lambda x: (x * 2.0) + x))
    multiply, add = traced.calls
    assert multiply.args[1] == 2.0
    assert add.inputs == (multiply.outputs[0], traced.input)


def test_source_is_not_changed():
    model = keras.Sequential([keras.Input((4, 4, 3)), block("only")])
    config, weights = model.get_config(), model.get_weights()
    trace(model)
    assert model.get_config() == config
    assert all(map(np.array_equal, weights, model.get_weights()))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


class OverridesCall(keras.Model):
    def call(self, inputs):
        return super().call(inputs) * 2


class Stranger:
    name = "stranger"


Keras2Model = type("Model", (), {"__module__": "tf_keras.src.engine"})


def overridden():
    image = keras.Input((4, 4, 3))
    return OverridesCall(image, layers.ReLU()(image))


def two_inputs():
    inputs = [keras.Input((2,), name=name) for name in "xy"]
    return keras.Model(inputs, layers.Add()(inputs), name="siamese")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            Subclassed,
            "the subclassed model 'subclassed.*' of type Subclassed. Write it "
            "with the Functional API",
            id="subclassed",
        ),
        pytest.param(
            overridden, "of type OverridesCall", id="functional-with-own-call"
        ),
        pytest.param(
            lambda: keras.Sequential([layers.Dense(2)], name="raw"),
            "'raw', not built yet. Give it a `keras.Input`",
            id="unbuilt",
        ),
        pytest.param(
            Keras2Model,
            r"a Keras 2 model of type tf_keras.src.engine.Model. Save it",
            id="keras-2",
        ),
        pytest.param(
            Stranger, "is a `keras.Model`. Received: .*Stranger", id="no-model"
        ),
        pytest.param(
            two_inputs,
            r"'siamese' with the inputs \['x', 'y'\]. Put constants",
            id="inputs",
        ),
        pytest.param(
            lambda: model_of(layers.Lambda(lambda x: x, name="odd")),
            "no Lambda layers.* 'odd'. Call `keras.ops`",
            id="lambda",
        ),
    ],
)
def test_refusal(make, message):
    with pytest.raises(UnsupportedModelError, match=message):
        trace(make())


def test_subclassed_part_is_one_call():
    model = keras.Sequential([keras.Input((4, 4, 3)), Subclassed(name="odd")])
    assert names(model) == ["odd"]


@keras.saving.register_keras_serializable(package="kmod_test")
class Block(layers.Layer):
    """A residual block of Keras layers, as KerasHub writes them."""

    def build(self, input_shape):
        self.first = layers.Conv2D(5, 3, padding="same", name="first")
        self.norm = layers.BatchNormalization(name="norm")
        self.last = layers.Conv2D(input_shape[-1], 1, name="last")
        self.dropout = layers.Dropout(0.5)
        self.first.build(input_shape)
        self.norm.build((*input_shape[:-1], 5))
        self.last.build((*input_shape[:-1], 5))

    def call(self, inputs, training=None):
        x = ops.relu(self.norm(self.first(inputs), training=training))
        return inputs + self.dropout(self.last(x), training=training)


class OwnWeight(Block):
    def call(self, inputs):
        return super().call(inputs) * self.last.bias


class Random(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.draws = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return super().call(inputs) + keras.random.normal((), seed=self.draws)


class Side(Block):
    def call(self, inputs):
        return inputs + self.last(self.first(inputs))


def with_block(kind):
    keras.utils.set_random_seed(0)

    def body(image):
        x = kind(name="block")(layers.Conv2D(4, 1, name="conv")(image))
        return layers.Dense(2)(layers.GlobalAveragePooling2D()(x))

    return model_of(body)


def test_layer_made_of_keras_layers_is_opened():
    model = with_block(Block)
    nodes = [len(each._inbound_nodes) for each in model._flatten_layers()]
    graph = channel_graph(model)
    assert graph.kernels.layers == ("conv", "first", "last")
    assert graph.kernels.removable.all()
    assert measure_exactness(model, graph).is_exact
    flat = rebuild(graph)
    assert not any(isinstance(layer, Block) for layer in flat.layers)
    again = [len(each._inbound_nodes) for each in model._flatten_layers()]
    assert again == nodes


@pytest.mark.parametrize("kind", [OwnWeight, Random, Side])
def test_layer_that_does_more_stays_whole(kind):
    graph = channel_graph(with_block(kind))
    assert graph.kernels.layers == ("conv",)
    assert not graph.kernels.removable.any()
