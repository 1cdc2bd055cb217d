import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

ARRAY = np.ones((1, 4, 4, 4), "float32")


@pytest.mark.parametrize(
    "layer",
    [
        layers.Add,
        layers.Subtract,
        layers.Multiply,
        layers.Average,
        layers.Maximum,
        layers.Minimum,
    ],
)
def test_elementwise_layers_tie(flow_of, conv, layer):
    flow = flow_of(lambda x, y: layer(name="join")([y, conv("second")(x)]))
    assert flow.groups == [0, 1, 2, 3, 0, 1, 2, 3]
    assert flow.at("join") == [0, 1, 2, 3]
    assert flow.free == 8 * [1]


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        pytest.param(lambda a, b: a + b, "add", id="add"),
        pytest.param(lambda a, b: a - b, "subtract", id="subtract"),
        pytest.param(lambda a, b: a * b, "multiply", id="multiply"),
        pytest.param(lambda a, b: a / b, "true_divide", id="divide"),
        pytest.param(ops.maximum, "maximum", id="maximum"),
        pytest.param(ops.minimum, "minimum", id="minimum"),
    ],
)
def test_operators_tie(flow_of, conv, operation, name):
    keras.utils.clear_session()
    flow = flow_of(lambda x, y: operation(y, conv("second")(x)))
    assert flow.groups == [0, 1, 2, 3, 0, 1, 2, 3]
    assert flow.at(name) == [0, 1, 2, 3]


def test_join_with_the_image_pins(flow_of, conv):
    flow = flow_of(lambda x, y: layers.Add(name="add")([x, conv("rgb", 3)(y)]))
    assert flow.free == 4 * [1] + 3 * [0]
    assert flow.pins == {"add": "it joins them with a fixed tensor"}


def test_join_with_half_fixed_tensor_pins_that_half(flow_of, conv):
    def body(image, first):
        half = layers.Concatenate()([image, conv("one", 1)(image)])
        return layers.Add(name="add")([first, half])

    flow = flow_of(body)
    assert flow.graph.kernels.layers == ("one", "first")
    assert flow.at("add") == [-1, -1, -1, 0]
    assert flow.groups == [0, 1, 2, 3, 0]
    assert flow.free == [1, 0, 0, 0, 1]


def test_concatenation_sets_side_by_side(flow_of, conv):
    flow = flow_of(
        lambda x, y: layers.Concatenate(name="cat")([conv("b", 2)(y), y])
    )
    assert flow.at("cat") == [4, 5, 0, 1, 2, 3]


def test_concatenation_operation(flow_of, conv):
    keras.utils.clear_session()
    flow = flow_of(lambda x, y: ops.concatenate([y, conv("b", 2)(x)], axis=3))
    assert flow.at("concatenate") == [0, 1, 2, 3, 4, 5]


def test_concatenation_with_the_image_leaves_it_whole(flow_of):
    flow = flow_of(lambda x, y: layers.Concatenate(name="cat")([x, y]))
    assert flow.at("cat") == [-1, -1, -1, 0, 1, 2, 3]
    assert flow.free == [1, 1, 1, 1]


def test_concatenation_over_space_ties(flow_of, conv):
    flow = flow_of(
        lambda x, y: layers.Concatenate(1, name="cat")([y, conv("second")(x)])
    )
    assert flow.at("cat") == [0, 1, 2, 3]
    assert flow.groups == [0, 1, 2, 3, 0, 1, 2, 3]


def test_stacking_on_the_image_pins(flow_of, conv):
    flow = flow_of(
        lambda x, y: layers.Concatenate(1, name="cat")([x, conv("rgb", 3)(y)])
    )
    assert flow.at("cat") is None
    assert flow.pins == {"cat": "it stacks them on a fixed tensor"}


@pytest.mark.parametrize("layer", [layers.Add, layers.Concatenate])
def test_join_across_channel_axes_pins(flow_of, conv, layer):
    flow = flow_of(
        lambda x, y: layer(name="join")([y, layers.Permute((3, 2, 1))(y)])
    )
    assert flow.at("join") is None
    assert flow.pins == {"join": "its inputs differ in channel axis"}


@pytest.mark.parametrize(
    ("join", "name"),
    [
        pytest.param(lambda y: y + ARRAY, "add", id="add"),
        pytest.param(lambda y: y * ARRAY, "multiply", id="multiply"),
        pytest.param(
            lambda y: ops.concatenate([y, ops.tile(ARRAY, (1, 1, 1, 1))], 0),
            "concatenate",
            id="concatenate",
        ),
    ],
)
def test_constant_array_pins(flow_of, join, name):
    keras.utils.clear_session()
    flow = flow_of(lambda x, y: join(y))
    assert flow.at(name) is None
    assert flow.pins == {name: "it joins them with a constant array"}


def test_constant_number_does_not_pin(flow_of):
    keras.utils.clear_session()
    flow = flow_of(lambda x, y: 2.0 * y + 1)
    assert flow.at("add") == [0, 1, 2, 3]
    assert flow.free == [1, 1, 1, 1]


def test_broadcast_factor_stays_whole(flow_of, conv):
    flow = flow_of(
        lambda x, y: layers.Multiply(name="mul")([y, conv("attention", 1)(y)])
    )
    assert flow.at("mul") == [0, 1, 2, 3]
    assert flow.free == [1, 1, 1, 1, 0]
    assert flow.pins == {"mul": "it is broadcast"}


def test_broadcast_over_space_ties(flow_of):
    """A squeeze-and-excite gate goes with the channel it scales."""

    def body(image, first):
        squeezed = layers.GlobalAveragePooling2D(keepdims=True)(first)
        squeezed = layers.Dense(2, "relu", name="reduce")(squeezed)
        gate = layers.Dense(4, "sigmoid", name="expand")(squeezed)
        return layers.Multiply(name="excite")([gate, first])

    flow = flow_of(body)
    assert flow.at("excite") == flow.at("expand") == [0, 1, 2, 3]
    assert flow.at("reduce") == [4, 5]
    assert flow.groups == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert flow.free == 10 * [1]


def test_gate_of_lower_rank_ties_with_the_last_axis(flow_of):
    keras.utils.clear_session()

    def body(image, first):
        rows = layers.GlobalAveragePooling1D()(layers.Reshape((16, 4))(first))
        return first * layers.Reshape((1, 1, 4))(rows)

    flow = flow_of(body)
    assert flow.at("multiply") == [0, 1, 2, 3]
    assert flow.groups == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        pytest.param(2, [[0, 1], [2, 3]], id="halves"),
        pytest.param([1, 3], [[0], [1, 2], [3]], id="at-indices"),
    ],
)
def test_split_hands_out_runs_of_channels(flow_of, sections, parts):
    keras.utils.clear_session()
    flow = flow_of(
        lambda x, y: layers.Concatenate(name="swapped")(
            ops.split(y, sections, axis=-1)[::-1]
        )
    )
    assert [flow.at("split", i) for i in range(len(parts))] == parts
    assert flow.at("swapped") == sum(parts[::-1], [])


def test_split_over_space_hands_out_all_channels(flow_of):
    keras.utils.clear_session()
    flow = flow_of(lambda x, y: layers.Add()(ops.split(y, 2, axis=1)))
    assert flow.at("split", 0) == flow.at("split", 1) == [0, 1, 2, 3]


def test_split_of_the_image_has_no_kernels(flow_of):
    keras.utils.clear_session()
    flow = flow_of(
        lambda x, y: layers.Concatenate()([ops.split(x, 3, axis=-1)[0], y])
    )
    assert flow.at("split") is None
