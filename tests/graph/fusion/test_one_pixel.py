import numpy as np
import pytest
from keras import layers

from kmod.graph.fusion.one_pixel import GLOBAL_POOLINGS
from kmod.graph.fusion.one_pixel import on_one_pixel
from kmod.graph.trace import trace


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
def test_answers_stay(build, options):
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
def test_others_stay_as_they_are(build, layer, shape):
    call = call_of(build, layer, shape)
    assert on_one_pixel(call).operation is call.operation


def test_even_kernel_between_two_entries_stays(build):
    layer = layers.Conv2D(4, 2, dilation_rate=3, padding="same")
    call = call_of(build, layer, (1, 1, 6))
    assert on_one_pixel(call).operation is call.operation


@pytest.mark.parametrize("kind", GLOBAL_POOLINGS, ids=lambda k: k.__name__)
def test_global_pooling_flattens(build, kind):
    axes = int(kind.__name__[-2])
    call = call_of(build, kind(name="pool"), (*(1,) * axes, 6))
    layer = on_one_pixel(call).operation
    assert type(layer) is layers.Flatten and layer.name == "pool"
    image = np.arange(12, dtype="float32").reshape(2, *(1,) * axes, 6)
    np.testing.assert_array_equal(layer(image), call.operation(image))
