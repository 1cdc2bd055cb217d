import keras
import numpy as np
import pytest
from keras import layers

from kmod.graph.fusion.folding import GLOBAL_POOLINGS
from kmod.graph.fusion.folding import fold
from kmod.graph.fusion.folding import on_one_pixel
from kmod.graph.fusion.fuse import fuse
from kmod.graph.trace import trace


def kinds_in(model):
    calls, _ = fold(trace(model))
    return [type(call.operation).__name__ for call in calls]


@pytest.mark.parametrize(
    "linear",
    [
        pytest.param(lambda: layers.Conv2D(4, 3), id="conv"),
        pytest.param(lambda: layers.Conv2D(4, 3, use_bias=False), id="no-bias"),
        pytest.param(lambda: layers.Conv2D(4, 1, groups=2), id="grouped"),
        pytest.param(
            lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
            id="depthwise",
        ),
        pytest.param(lambda: layers.Dense(4), id="dense"),
    ],
)
@pytest.mark.parametrize(
    "norm",
    [
        pytest.param({}, id="norm"),
        pytest.param({"scale": False}, id="no-gamma"),
        pytest.param({"center": False}, id="no-beta"),
    ],
)
def test_norm_and_activation_go_into_the_layer_in_front(
    build, gap_of, linear, norm
):
    def network(x):
        x = layers.BatchNormalization(epsilon=0.1, **norm)(linear()(x))
        return layers.ReLU()(x)

    model = build(network)
    assert kinds_in(model) == [type(model.layers[1]).__name__]
    assert gap_of(model, fuse(model)) < 1e-5


def test_worked_example(build):
    model = build(
        lambda x: layers.BatchNormalization(epsilon=1.0)(layers.Dense(1)(x)),
        shape=(1,),
    )
    model.layers[1].set_weights([np.array([[2.0]]), np.array([5.0])])
    gamma, beta, mean, variance = ([3.0], [7.0], [1.0], [3.0])
    model.layers[2].set_weights(np.array([gamma, beta, mean, variance]))
    # 3 * (2 x + 5 - 1) / sqrt(3 + 1) + 7 = 3 x + 13
    kernel, bias = fuse(model).layers[1].get_weights()
    assert (kernel.item(), bias.item()) == pytest.approx((3, 13))


def test_what_others_read_is_not_folded(build, gap_of):
    def network(x):
        x = layers.Conv2D(2, 3)(x)
        return layers.BatchNormalization()(x) + x

    model = build(network)
    assert kinds_in(model) == ["Conv2D", "BatchNormalization", "Add"]
    assert gap_of(model, fuse(model)) < 1e-5


def test_layer_called_twice_is_not_folded(build, gap_of):
    def network(x):
        dense = layers.Dense(2)
        return layers.BatchNormalization()(dense(dense(x)))

    model = build(network)
    assert kinds_in(model) == ["Dense", "Dense", "BatchNormalization"]
    assert gap_of(model, fuse(model)) < 1e-5


def test_norm_of_another_axis_is_not_folded(build, gap_of):
    def network(x):
        return layers.BatchNormalization(axis=1)(layers.Conv2D(2, 1)(x))

    model = build(network)
    assert kinds_in(model) == ["Conv2D", "BatchNormalization"]
    assert gap_of(model, fuse(model)) < 1e-5


@pytest.mark.parametrize(
    ("units", "kinds"),
    [((6, 1), ["Dense"]), ((1, 6), ["Dense", "Dense"])],
    ids=["less-work", "more-work"],
)
def test_linear_dense_layers_are_multiplied(build, gap_of, units, kinds):
    model = build(
        lambda x: layers.Dense(units[1])(layers.Dense(units[0])(x)), (8,)
    )
    assert kinds_in(model) == kinds
    x = np.random.default_rng(0).normal(size=(3, 8))
    np.testing.assert_allclose(model(x), fuse(model)(x), rtol=0, atol=1e-5)


def test_activation_between_keeps_dense_layers_apart(build):
    model = build(
        lambda x: layers.Dense(1)(layers.Dense(4, activation="tanh")(x)), (8,)
    )
    assert kinds_in(model) == ["Dense", "Dense"]


def test_what_is_idle_in_use_is_left_out(build, gap_of):
    def network(x):
        x = layers.SpatialDropout2D(0.5)(layers.Conv2D(4, 3)(x))
        x = layers.Flatten()(layers.BatchNormalization()(x))
        return layers.Dropout(0.5)(layers.Dense(2)(x))

    model = build(network)
    assert kinds_in(model) == ["Conv2D", "Flatten", "Dense"]
    assert gap_of(model, fuse(model)) < 1e-5


@pytest.mark.parametrize(
    ("layer", "is_folded"),
    [
        (layers.Activation("gelu"), True),
        (layers.ReLU(max_value=6), False),
        (layers.Softmax(), False),
        (layers.Activation("softmax"), False),
        (layers.ReLU(dtype="float16"), False),
    ],
    ids=["gelu", "relu6", "softmax", "activation-softmax", "other-dtype"],
)
def test_activations(build, gap_of, layer, is_folded):
    copy = type(layer).from_config(layer.get_config())
    model = build(lambda x: copy(layers.Conv2D(3, 3)(x)))
    assert len(kinds_in(model)) == (1 if is_folded else 2)
    assert gap_of(model, fuse(model)) < 1e-5


def test_source_is_not_changed(build):
    model = build(lambda x: layers.BatchNormalization()(layers.Conv2D(2, 3)(x)))
    before = model.to_json(), model.get_weights()
    fuse(model)
    assert model.to_json() == before[0]
    for new, old in zip(model.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(new, old)
    assert isinstance(fuse(model), keras.Model)


def call_of(build, layer, shape):
    (call,) = trace(build(layer, shape)).calls
    return call


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (2, 5), "use_bias": False},
        {"kernel_size": 4, "strides": 2, "activation": "relu"},
        {"kernel_size": 3, "dilation_rate": 2},
        {"kernel_size": 3, "groups": 2},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_convolution_of_one_pixel_gets_size_1(build, options):
    layer = layers.Conv2D(4, padding="same", name="conv", **options)
    call = call_of(build, layer, (1, 1, 6))
    small = on_one_pixel(call).operation
    assert small.kernel_size == small.strides == small.dilation_rate == (1, 1)
    image = np.random.default_rng(1).normal(size=(5, 1, 1, 6))
    image = image.astype("float32")
    expected = np.asarray(call.operation(image))
    np.testing.assert_allclose(small(image), expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv2D(4, 3, padding="same"), (1, 2, 6)),
        (layers.Conv2D(4, 1), (1, 1, 6)),
        (layers.Conv2D(4, 3, padding="same"), (None, None, 6)),
        (layers.Dense(4), (1, 1, 6)),
        (layers.GlobalMaxPooling2D(), (1, 2, 6)),
        (layers.GlobalMaxPooling2D(keepdims=True), (1, 1, 6)),
    ],
    ids=[
        "two-pixels",
        "no-padding",
        "unknown-size",
        "dense",
        "pooling-of-two-pixels",
        "pooling-that-keeps-axes",
    ],
)
def test_others_of_one_pixel_stay_as_they_are(build, layer, shape):
    call = call_of(build, layer, shape)
    assert on_one_pixel(call).operation is call.operation


def test_even_kernel_between_two_entries_stays(build):
    layer = layers.Conv2D(4, 2, dilation_rate=3, padding="same")
    call = call_of(build, layer, (1, 1, 6))
    assert on_one_pixel(call).operation is call.operation


@pytest.mark.parametrize("kind", GLOBAL_POOLINGS, ids=lambda k: k.__name__)
def test_global_pooling_of_one_pixel_flattens(build, kind):
    axes = int(kind.__name__[-2])
    call = call_of(build, kind(name="pool"), (*(1,) * axes, 6))
    layer = on_one_pixel(call).operation
    assert type(layer) is layers.Flatten and layer.name == "pool"
    image = np.arange(12, dtype="float32").reshape(2, *(1,) * axes, 6)
    np.testing.assert_array_equal(layer(image), call.operation(image))
