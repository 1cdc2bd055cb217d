import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from keras.src.applications.convnext import LayerScale

from kmod.graph import rebuild


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(name="layer"),
        layers.ReLU(name="layer"),
        layers.LeakyReLU(name="layer"),
        layers.ELU(name="layer"),
        layers.PReLU(name="layer"),
        layers.PReLU(shared_axes=[1, 2], name="layer"),
        layers.Activation("swish", name="layer"),
        layers.Rescaling(2.0, offset=1.0, name="layer"),
        layers.Rescaling([1.0, 2.0, 3.0, 4.0], name="layer"),
        LayerScale(0.5, 4, name="layer"),
        layers.Dropout(0.5, name="layer"),
        layers.SpatialDropout2D(0.5, name="layer"),
        layers.GaussianNoise(0.1, name="layer"),
        layers.Identity(name="layer"),
        layers.MaxPooling2D(name="layer"),
        layers.AveragePooling2D(2, padding="same", name="layer"),
        layers.ZeroPadding2D(((0, 1), (2, 3)), name="layer"),
        layers.Cropping2D(((0, 1), (1, 0)), name="layer"),
        layers.UpSampling2D(3, name="layer"),
        layers.Resizing(3, 3, name="layer"),
        layers.CenterCrop(2, 2, name="layer"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_channels_pass(flow_of, layer):
    flow = flow_of(lambda x, y: layer(y))
    assert flow.at("layer") == [0, 1, 2, 3]
    assert flow.free == [1, 1, 1, 1]


@pytest.mark.parametrize("operation", [ops.relu, ops.silu, ops.abs, ops.square])
def test_elementwise_operations_pass(flow_of, operation):
    flow = flow_of(lambda x, y: operation(y))
    assert flow.free == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        pytest.param(
            layers.Softmax(name="layer"), "it normalises over", id="softmax"
        ),
        pytest.param(
            layers.Activation("softmax", name="layer"),
            "its activation mixes channels",
            id="activation",
        ),
        pytest.param(
            layers.MaxPooling2D(data_format="channels_first", name="layer"),
            "it works across the channel axis",
            id="pooling-of-channels",
        ),
    ],
)
def test_layer_pins(flow_of, conv, layer, reason):
    flow = flow_of(lambda x, y: conv("after")(layer(y)))
    assert flow.at("layer") is None
    assert flow.free == [0, 0, 0, 0, 1, 1, 1, 1]
    assert flow.pins["layer"].startswith(reason)


def test_factors_along_another_axis_pin(flow_of, conv):
    layer = layers.Rescaling([1.0, 2.0, 3.0, 4.0], name="layer")
    flow = flow_of(
        lambda x, y: conv("after")(layer(layers.Permute((1, 3, 2))(y)))
    )
    assert flow.free[:4] == [0, 0, 0, 0]
    assert flow.pins["layer"] == "it has factors along another axis"


@pytest.mark.parametrize(
    "layer",
    [
        layers.Rescaling([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]),
        LayerScale(0.5, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_factors_are_cut_with_their_channels(flow_of, layer):
    flow = flow_of(lambda x, y: layer(y))
    if layer.weights:
        layer.set_weights([np.array([1.0, 2.0, 3.0, 4.0])])
    cut = rebuild(flow.graph, np.array([0, 1, 0, 1]))
    assert type(cut.layers[2]) is layers.Rescaling
    assert cut.layers[2].scale == [2.0, 4.0]
    assert cut.layers[2].offset == ([6.0, 8.0] if not layer.weights else 0.0)


def test_softmax_operation_pins(flow_of):
    keras.utils.clear_session()
    flow = flow_of(lambda x, y: ops.softmax(y, axis=-1))
    assert flow.pins == {"softmax": "kmod has no rule for Softmax layers"}


def test_softmax_of_the_image_pins_nothing(flow_of):
    flow = flow_of(lambda x, y: layers.Concatenate()([layers.Softmax()(x), y]))
    assert flow.free == [1, 1, 1, 1]


@pytest.mark.parametrize("layer", [layers.BatchNormalization, layers.PReLU])
def test_shared_weights_tie(flow_of, conv, layer):
    shared = layer(name="shared")
    flow = flow_of(
        lambda x, y: layers.Concatenate()(
            [shared(y), shared(conv("second")(x))]
        )
    )
    assert flow.groups == [0, 1, 2, 3, 0, 1, 2, 3]


def test_shared_layer_without_weights_does_not_tie(flow_of, conv):
    shared = layers.ReLU(name="shared")
    flow = flow_of(
        lambda x, y: layers.Concatenate()(
            [shared(y), shared(conv("second")(x))]
        )
    )
    assert flow.groups == list(range(8))
