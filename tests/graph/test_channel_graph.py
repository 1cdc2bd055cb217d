import keras
import pytest
from keras import layers
from keras import ops

from kmod.errors import UnsupportedModelError
from kmod.graph import channel_graph


def graph_of(*stack):
    return channel_graph(keras.Sequential([keras.Input((4, 4, 3)), *stack]))


def convolved(*stack):
    return graph_of(layers.Conv2D(4, 3, name="conv"), layers.Flatten(), *stack)


@pytest.mark.parametrize(
    "stack",
    [
        pytest.param([layers.Dense(2, name="out")], id="logits"),
        pytest.param(
            [layers.Dense(2, activation="softmax", name="out")], id="fused"
        ),
        pytest.param(
            [layers.Dense(2, name="out"), layers.Softmax()], id="layer"
        ),
        pytest.param(
            [layers.Dense(2, name="out"), layers.Activation("sigmoid")],
            id="activation",
        ),
        pytest.param(
            [
                layers.Dense(2, name="out"),
                layers.Dropout(0.5),
                layers.Softmax(),
            ],
            id="dropout",
        ),
    ],
)
def test_output_layer_is_not_counted(stack):
    graph = convolved(*stack)
    assert graph.kernels.layers == ("conv",)
    assert graph.kernels.removable.all()
    assert graph.pins == ()
    assert graph.num_classes == 2


def test_softmax_operation_at_the_end_is_left_out():
    image = keras.Input((8,))
    logits = layers.Dense(2, name="out")(layers.Dense(4, name="hidden")(image))
    graph = channel_graph(keras.Model(image, ops.softmax(logits)))
    assert graph.kernels.layers == ("hidden",)
    assert graph.trace.calls[-1].name == "out"


def test_relu_at_the_end_is_kept():
    graph = convolved(layers.Dense(2, name="out"), layers.ReLU(name="relu"))
    assert graph.trace.calls[-1].name == "relu"


def test_convolution_may_be_the_output_layer():
    graph = graph_of(
        layers.Conv2D(4, 3, name="conv"),
        layers.Conv2D(2, 2, name="out"),
        layers.Flatten(),
        layers.Softmax(),
    )
    assert graph.kernels.layers == ("conv",)


def test_layer_joined_with_the_output_is_not_counted():
    image = keras.Input((8,))
    outputs = [layers.Dense(2, name=name)(image) for name in "ab"]
    model = keras.Model(image, layers.Add()(outputs))
    assert channel_graph(model).kernels.num_kernels == 0


@pytest.mark.parametrize(
    ("stack", "shape"),
    [
        pytest.param([layers.Conv2D(2, 3)], r"\(None, 2, 2, 2\)", id="image"),
        pytest.param(
            [layers.Flatten(), layers.Dense(1)], r"\(None, 1\)", id="one-score"
        ),
    ],
)
def test_output_must_be_a_score_for_each_class(stack, shape):
    with pytest.raises(UnsupportedModelError, match=f"two or more.*{shape}"):
        graph_of(*stack)


def test_groups_of_stand_for_what_is_joined(flow_of, conv):
    flow = flow_of(lambda x, y: layers.Add(name="add")([y, conv("b")(x)]))
    assert flow.at("first") == flow.at("b") == flow.at("add") == [0, 1, 2, 3]


def test_pins_name_layer_reason_and_kernels(flow_of):
    flow = flow_of(lambda x, y: layers.LayerNormalization(name="norm")(y))
    (pin,) = flow.graph.pins
    assert (pin.layer, pin.reason) == ("norm", "it normalises over channels")
    assert pin.kernels.tolist() == [0, 1, 2, 3]
    assert flow.at("first") is None


def test_chain_of_joins_is_one_group(flow_of, conv):
    def body(image, first):
        second = layers.Add()([first, conv("second")(first)])
        return layers.Add()([second, conv("third")(second)])

    flow = flow_of(body)
    assert flow.groups == 3 * [0, 1, 2, 3]


def test_pin_reaches_all_that_is_joined(flow_of, conv):
    def body(image, first):
        second = conv("second")(image)
        pinned = layers.UnitNormalization(name="unit")(second)
        return layers.Concatenate()([layers.Add()([first, second]), pinned])

    flow = flow_of(body)
    assert flow.groups == 2 * [0, 1, 2, 3]
    assert flow.free == 8 * [0]
