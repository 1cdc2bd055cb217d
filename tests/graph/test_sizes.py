import keras
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.profiler import model_analyzer
from tensorflow.python.profiler import option_builder

from kmod.errors import UnsupportedModelError
from kmod.graph.sizes import layer_macs
from kmod.graph.sizes import model_sizes
from kmod.graph.trace import trace
from kmod.zoo.build import build

MULTIPLYING_OPS = {
    "Conv2D",
    "Conv2DBackpropInput",
    "DepthwiseConv2dNative",
    "MatMul",
}


def profiled_macs(model):
    """Counts with TensorFlow's profiler, which takes 2 FLOPs for a MAC."""
    image = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    function = tf.function(lambda x: model(x, training=False))
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        function.get_concrete_function(image)
    )
    options = option_builder.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    root = model_analyzer.profile(frozen.graph, cmd="op", options=options)
    return sum(_flops(root)) // 2


def _flops(node):
    if node.name in MULTIPLYING_OPS:
        yield node.float_ops
    for child in node.children:
        yield from _flops(child)


def chain(shape, *steps):
    return keras.Sequential([keras.Input(shape), *steps])


def shared():
    image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="shared")
    return keras.Model(image, layers.Add()([conv(image), conv(conv(image))]))


def nested():
    inner = chain((None, None, 3), layers.Conv2D(5, 3), layers.ReLU())
    image = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(1)(inner(image))
    x = keras.ops.relu(layers.Conv2D(3, 1)(x))
    return keras.Model(image, inner(x))


def mobile_net():
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), classes=10
    )


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="TensorFlow's profiler counts in TensorFlow's graphs.",
)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: chain((9, 8, 3), layers.Conv2D(5, 3, strides=2)),
            id="conv-stride",
        ),
        pytest.param(
            lambda: chain(
                (8, 8, 3),
                layers.Conv2DTranspose(5, 4, strides=2, padding="same"),
            ),
            id="transposed",
        ),
        pytest.param(
            lambda: chain(
                (8, 8, 3), layers.DepthwiseConv2D(3, depth_multiplier=2)
            ),
            id="depthwise",
        ),
        pytest.param(
            lambda: chain(
                (8, 8, 3), layers.SeparableConv2D(5, 3, depth_multiplier=2)
            ),
            id="separable",
        ),
        pytest.param(
            lambda: chain((4, 4, 3), layers.Dense(5), layers.Flatten()),
            id="dense-on-maps",
        ),
        pytest.param(shared, id="shared"),
        pytest.param(nested, id="nested"),
        pytest.param(lambda: build("simcnn", (32, 32, 3), 10), id="simcnn"),
        pytest.param(lambda: build("rescnn", (32, 32, 3), 10), id="rescnn"),
        pytest.param(lambda: build("incecnn", (32, 32, 3), 10), id="incecnn"),
        pytest.param(mobile_net, id="mobile-net"),
    ],
)
def test_macs_agree_with_the_profiler(make):
    model = make()
    assert model_sizes(model).macs == profiled_macs(model) > 0


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(
            chain((6, 4), layers.Conv1D(8, 3, groups=2)),
            4 * 3 * 2 * 8,
            id="grouped-1d",
        ),
        pytest.param(
            chain((4, 4, 4, 2), layers.Conv3D(5, 2)),
            3**3 * 2**3 * 2 * 5,
            id="3d",
        ),
        pytest.param(
            chain((3, 8, 6), layers.Conv2D(5, 3, data_format="channels_first")),
            6 * 4 * 9 * 3 * 5,
            id="channels-first",
        ),
    ],
)
def test_macs_by_hand(model, expected):
    assert model_sizes(model).macs == expected


def test_layers_by_name_and_shared_ones_by_call():
    assert layer_macs(shared()) == {"shared": 3 * 64 * 9 * 3 * 3}


def test_nested_layers_have_the_names_of_the_trace():
    image = keras.Input((4, 4, 1))
    inner = keras.Sequential([layers.Dense(2, name="dense")], name="inner")
    x = layers.Dense(3, name="dense")(layers.Flatten()(image))
    model = keras.Model(image, inner(x))
    assert layer_macs(model) == {"dense": 16 * 3, "inner_dense": 3 * 2}
    assert [call.name for call in trace(model).calls[1:]] == [
        *layer_macs(model)
    ]


def test_parameters_and_kernels_count_once():
    sizes = model_sizes(shared())
    assert sizes.parameters == 3 * 3 * 3 * 3 + 3
    assert sizes.kernels == 3
    assert model_sizes(build("simcnn", (8, 8, 1), 10)).kernels == 224


def test_counting_does_not_touch_the_model():
    model = shared()
    nodes = len(model.get_layer("shared")._inbound_nodes)
    layer_macs(model)
    assert len(model.get_layer("shared")._inbound_nodes) == nodes


class Subclassed(keras.Model):
    pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(
            Subclassed(name="own"),
            "model 'own' of type Subclassed. Write",
            id="subclass",
        ),
        pytest.param(
            keras.Sequential([layers.Dense(2)], name="open"),
            "Received: 'open', not built yet. Give",
            id="not-built",
        ),
        pytest.param(
            chain((None, None, 3), layers.Conv2D(2, 3)),
            r"input of shape \(None, None, None, 3\). Call",
            id="any-size",
        ),
    ],
)
def test_models_that_can_not_be_counted(model, message):
    with pytest.raises(UnsupportedModelError, match=message):
        model_sizes(model)
