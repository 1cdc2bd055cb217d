import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from kmod.graph import channel_graph
from kmod.graph import rebuild


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        pytest.param(layers.Conv1D(4, 3, name="new"), (8, 3), id="conv1d"),
        pytest.param(layers.Conv2D(4, 3, name="new"), (8, 8, 3), id="conv2d"),
        pytest.param(
            layers.Conv3D(4, 3, name="new"), (8, 8, 8, 3), id="conv3d"
        ),
        pytest.param(
            layers.Conv1DTranspose(4, 3, name="new"), (8, 3), id="transpose1d"
        ),
        pytest.param(
            layers.Conv2DTranspose(4, 3, name="new"),
            (8, 8, 3),
            id="transpose2d",
        ),
        pytest.param(
            layers.Conv3DTranspose(4, 3, name="new"),
            (8, 8, 8, 3),
            id="transpose3d",
        ),
        pytest.param(
            layers.SeparableConv1D(4, 3, name="new"), (8, 3), id="separable1d"
        ),
        pytest.param(
            layers.SeparableConv2D(4, 3, depth_multiplier=2, name="new"),
            (8, 8, 3),
            id="separable2d",
        ),
        pytest.param(layers.Dense(4, name="new"), (8,), id="dense"),
        pytest.param(
            layers.Dense(4, name="new"), (8, 8, 3), id="dense-on-image"
        ),
    ],
)
def test_layer_makes_kernels(layer, shape):
    image = keras.Input(shape)
    again = layers.Dense(2, name="out")(layers.Flatten()(layer(image)))
    graph = channel_graph(keras.Model(image, again))
    call, *_ = graph.trace.calls
    assert graph.kernels.layers == ("new",)
    assert graph.groups_of(call.outputs[0]).tolist() == [0, 1, 2, 3]
    assert graph.map_of(call.outputs[0]).axis == len(shape)
    assert graph.kernels.removable.all()


def test_kernels_are_numbered_layer_by_layer(flow_of, conv):
    flow = flow_of(lambda x, y: conv("next", 2)(y))
    assert flow.graph.kernels.layers == ("first", "next")
    assert flow.at("next") == [4, 5]
    assert flow.groups == [0, 1, 2, 3, 4, 5]


def test_layer_shared_by_two_places_ties_what_it_reads(flow_of, conv):
    shared = conv("shared", 2)

    def body(image, first):
        places = [shared(first), shared(conv("second")(image))]
        return layers.Concatenate(name="both")(places)

    flow = flow_of(body)
    assert sorted(flow.graph.kernels.layers) == ["first", "second", "shared"]
    assert flow.at("first") == flow.at("second") == [0, 1, 2, 3]
    assert flow.at("both") == [4, 5, 4, 5]
    assert flow.free == 10 * [1]


@pytest.mark.parametrize("image_first", [True, False])
def test_layer_shared_with_the_image_pins(conv, image_first):
    shared, image = conv("shared", 3), keras.Input((4, 4, 3))
    once = shared(image)
    twice = shared(once)
    places = [once, twice] if image_first else [twice, once]
    features = layers.GlobalAveragePooling2D()(layers.Add()(places))
    graph = channel_graph(keras.Model(image, layers.Dense(2)(features)))
    assert not graph.kernels.removable.any()
    (pin,) = graph.pins
    assert pin.layer == "shared"
    assert "shared with a place whose channels are fixed" in pin.reason


def test_grouped_convolution_goes_by_whole_groups(flow_of, conv):
    flow = flow_of(lambda x, y: conv("last")(conv("pairs", 6, groups=2)(y)))
    assert flow.groups == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 2, 3, 4, 5]
    assert flow.free == 14 * [1]
    cut = rebuild(flow.graph, np.array(flow.groups) != 0)
    pairs = cut.get_layer("pairs")
    assert (pairs.groups, pairs.filters) == (1, 3)
    kernel = flow.model.get_layer("pairs").get_weights()[0]
    np.testing.assert_array_equal(pairs.get_weights()[0], kernel[..., 3:])


def test_grouped_convolution_of_the_image_is_pinned(flow_of, conv):
    flow = flow_of(lambda x, y: conv("last")(conv("each", 6, groups=3)(x)))
    assert flow.graph.kernels.layers == ("each", "last")
    assert flow.free == 6 * [0] + 4 * [1]
    assert flow.pins == {
        "each": "its convolution is grouped and reads a fixed tensor"
    }


def test_depthwise_convolution_repeats_channels(flow_of):
    wide = layers.DepthwiseConv2D(3, depth_multiplier=2, name="wide")
    flow = flow_of(lambda x, y: wide(y))
    assert flow.at("wide") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert flow.graph.kernels.layers == ("first",)


def test_depthwise_convolution_of_the_image_has_no_kernels(flow_of):
    flow = flow_of(lambda x, y: layers.DepthwiseConv2D(3, name="deep")(x))
    assert flow.at("deep") is None
    assert flow.pins == {}


def test_shared_depthwise_convolution_ties(flow_of, conv):
    shared = layers.DepthwiseConv2D(3, name="shared")
    flow = flow_of(
        lambda x, y: layers.Concatenate(name="both")(
            [shared(y), shared(conv("second")(x))]
        )
    )
    assert flow.at("both") == 2 * [0, 1, 2, 3]


def centred(values):
    return values - ops.mean(values, axis=-1, keepdims=True)


@pytest.mark.parametrize("activation", ["softmax", centred])
@pytest.mark.parametrize(
    "layer", [layers.Conv2D, layers.SeparableConv2D, layers.DepthwiseConv2D]
)
def test_fused_activation_across_channels_pins(flow_of, layer, activation):
    sizes = {"kernel_size": 3, "activation": activation, "name": "mixing"}
    if layer is not layers.DepthwiseConv2D:
        sizes["filters"] = 2
    flow = flow_of(lambda x, y: layer(**sizes)(y))
    assert flow.at("mixing") is None
    assert flow.pins == {"mixing": "its activation mixes channels"}


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(layers.DepthwiseConv2D(3, name="odd"), id="depthwise"),
        pytest.param(layers.Conv2D(4, 3, name="odd"), id="conv"),
    ],
)
def test_channels_moved_to_another_axis_are_pinned(flow_of, layer):
    flow = flow_of(lambda x, y: layer(layers.Permute((3, 1, 2))(y)))
    assert flow.free[:4] == [0, 0, 0, 0]
    assert flow.pins == {"odd": "it reads another axis as channels"}


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(layers.Conv2D, id="conv"),
        pytest.param(layers.Conv2DTranspose, id="transpose"),
        pytest.param(layers.SeparableConv2D, id="separable"),
    ],
)
def test_channels_first(flow_of, layer):
    first = {"data_format": "channels_first"}

    def body(image, made):
        made = layer(2, 1, name="next", **first)(made)
        made = layers.BatchNormalization(axis=1)(made)
        made = layers.MaxPooling2D(**first)(made)
        return layers.GlobalAveragePooling2D(name="pool", **first)(made)

    flow = flow_of(body, shape=(3, 4, 4), **first)
    assert flow.at("first") == [0, 1, 2, 3]
    assert flow.at("next") == flow.at("pool") == [4, 5]
    assert flow.free == 6 * [1]
