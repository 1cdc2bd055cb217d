import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.channel_graph import score_threshold
from kmod.graph.exactness import measure_exactness


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
        pytest.param([layers.Conv2D(1, 4)], r"\(None, 1, 1, 1\)", id="map"),
        pytest.param(
            [layers.Flatten(), layers.Dense(1, activation="softmax")],
            r"\(None, 1\) of softmax. Give it",
            id="one-softmax",
        ),
    ],
)
def test_output_must_be_a_score_for_each_class(stack, shape):
    with pytest.raises(UnsupportedModelError, match=f"two or more.*{shape}"):
        graph_of(*stack)


def test_pooled_convolution_may_be_the_output_layer():
    graph = graph_of(
        layers.Conv2D(4, 3, name="conv"),
        layers.Conv2D(3, 1, name="out"),
        layers.GlobalAveragePooling2D(),
        layers.Softmax(),
    )
    assert graph.kernels.layers == ("conv",)
    assert graph.kernels.removable.all()
    assert graph.num_classes == 3


@pytest.mark.parametrize(
    ("stack", "activations"),
    [
        pytest.param(
            [layers.Flatten(), layers.Dense(1, activation="sigmoid")],
            ("sigmoid",),
            id="fused",
        ),
        pytest.param(
            [layers.Flatten(), layers.Dense(1), layers.Activation("sigmoid")],
            ("sigmoid",),
            id="layer",
        ),
        pytest.param([layers.Flatten(), layers.Dense(1)], (), id="logit"),
        pytest.param(
            [
                layers.Conv2D(1, 1),
                layers.GlobalAveragePooling2D(),
                layers.Activation("sigmoid"),
            ],
            ("sigmoid",),
            id="pooled",
        ),
    ],
)
def test_one_score_becomes_two_logits(stack, activations):
    keras.utils.set_random_seed(0)
    conv = layers.Conv2D(4, 3, name="conv")
    model = keras.Sequential([keras.Input((4, 4, 3)), conv, *stack])
    graph = channel_graph(model)
    assert graph.kernels.layers == ("conv",)
    assert graph.kernels.removable.all()
    assert (graph.num_classes, graph.activations) == (2, activations)
    images = np.random.default_rng(0).normal(size=(50, 4, 4, 3))
    answers = model.predict(images, verbose=0)[:, 0]
    logits = rebuild(graph).predict(images, verbose=0)
    assert np.all(logits[:, 0] == 0) and np.ptp(answers) > 0.1
    second = logits[:, 1]
    if activations:
        second = 1 / (1 + np.exp(-second))
    np.testing.assert_allclose(answers, second, rtol=1e-5, atol=1e-6)
    assert measure_exactness(model, graph).is_exact


def test_one_score_of_other_weights_is_not_exact():
    model, other = (
        keras.Sequential(
            [
                keras.Input((4, 4, 3)),
                layers.Conv2D(4, 3, name="conv"),
                layers.Flatten(name="flat"),
                layers.Dense(1, activation="sigmoid", name="out"),
            ]
        )
        for _ in range(2)
    )
    graph, flat = channel_graph(model), channel_graph(
        rebuild(channel_graph(other))
    )
    found = measure_exactness(
        model, graph, (0, 1), flat, rebuild(channel_graph(other))
    )
    assert not found.is_exact


@pytest.mark.parametrize(
    ("last", "threshold"),
    [
        pytest.param(layers.Dense(1, activation="sigmoid"), 0.5, id="sigmoid"),
        pytest.param(layers.Dense(1), 0, id="logit"),
    ],
)
def test_second_class_is_above_the_threshold(last, threshold):
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), last])
    assert score_threshold(model) == threshold


def open_model():
    image = keras.Input((None, None, 3))
    features = layers.Conv2D(4, 3, name="conv")(image)
    features = layers.GlobalAveragePooling2D()(features)
    return keras.Model(image, layers.Dense(3)(features), name="open")


def test_input_shape_fills_open_sizes():
    model = open_model()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    graph = channel_graph(model, input_shape=(6, 5, 3))
    assert graph.trace.input.shape == (None, 6, 5, 3)
    assert graph.trace.calls[0].outputs[0].shape == (None, 4, 3, 4)
    assert rebuild(graph).input_shape == (None, 6, 5, 3)
    assert measure_exactness(model, graph).is_exact
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


@pytest.mark.parametrize(
    "shape", [(6, 5, 1), (6, 5), (None, 5, 3)], ids=["channels", "rank", "open"]
)
def test_input_shape_must_fit(shape):
    with pytest.raises(
        UsageError, match=r"input_shape.*'open' takes .*Bring the images"
    ):
        channel_graph(open_model(), input_shape=shape)


def test_images_without_a_channel_axis_have_one_channel():
    model = keras.Sequential(
        [keras.Input((6, 5, 1)), layers.Flatten(), layers.Dense(2)]
    )
    traced = channel_graph(model, input_shape=(6, 5)).trace
    assert traced.input.shape == (None, 6, 5, 1)


def model_of_two(as_dict):
    image = keras.Input((8,))
    a, b = layers.Dense(2, name="a")(image), layers.Dense(3, name="b")(image)
    outputs = {"first": a, "second": b} if as_dict else [a, b]
    return keras.Model(image, outputs, name="two")


@pytest.mark.parametrize(
    ("as_dict", "name"),
    [
        pytest.param(False, "b", id="layer"),
        pytest.param(True, "second", id="key"),
    ],
)
def test_output_picks_one_of_several(as_dict, name):
    model = model_of_two(as_dict)
    graph = channel_graph(model, output=name)
    assert [call.name for call in graph.trace.calls] == ["b"]
    assert graph.num_classes == 3
    assert len(model.outputs) == 2


@pytest.mark.parametrize("name", [None, "c"])
def test_output_must_be_named(name):
    message = rf"one of \['a', 'b'\]. Received: output={name!r} for 'two'"
    with pytest.raises(UsageError, match=message):
        channel_graph(model_of_two(False), output=name)


def test_groups_of_stand_for_what_is_joined(flow_of, conv):
    flow = flow_of(lambda x, y: layers.Add(name="add")([y, conv("b")(x)]))
    assert flow.at("first") == flow.at("b") == flow.at("add") == [0, 1, 2, 3]


def test_pins_name_layer_reason_and_kernels(flow_of):
    flow = flow_of(lambda x, y: layers.Softmax(name="norm")(y))
    (pin,) = flow.graph.pins
    assert (pin.layer, pin.reason) == ("norm", "it normalises over channels")
    assert pin.kernels.tolist() == [0, 1, 2, 3]
    assert flow.at("first") is None


def test_pins_of_a_kind_are_counted_with_what_they_reach(flow_of, conv):
    def body(image, first):
        second = layers.Softmax(name="one")(conv("second")(image))
        both = layers.Add(name="sum")([first, second])
        third = conv("third", 2)(both)
        return layers.Softmax(name="two")(third)

    costs = flow_of(body).graph.pin_costs()
    assert [(c.kind, c.layers, c.kernels) for c in costs] == [
        ("Softmax", ("one", "two"), 6),
        ("Add", ("sum",), 4),
    ]
    assert costs[0].reason == "it normalises over channels"


def test_chain_of_joins_is_one_group(flow_of, conv):
    def body(image, first):
        second = layers.Add()([first, conv("second")(first)])
        return layers.Add()([second, conv("third")(second)])

    flow = flow_of(body)
    assert flow.groups == 3 * [0, 1, 2, 3]


def test_pin_reaches_all_that_is_joined(flow_of, conv):
    def body(image, first):
        second = conv("second")(image)
        pinned = layers.Softmax(name="shares")(second)
        return layers.Concatenate()([layers.Add()([first, second]), pinned])

    flow = flow_of(body)
    assert flow.groups == 2 * [0, 1, 2, 3]
    assert flow.free == 8 * [0]
