import random

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from kmod.errors import UnsupportedModelError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.exactness import check_exactness
from kmod.graph.exactness import measure_exactness
from kmod.graph.exactness import output_gap
from kmod.graph.exactness import random_images


def network(shape=(8, 8, 3), end=None, factor=1 / 255):
    """A convolution and what `end` makes of its pooled channels."""
    keras.utils.set_random_seed(0)
    end = end or (lambda x: layers.Dense(3, name="classes")(x))
    image = keras.Input(shape)
    x = layers.Rescaling(factor, name="rescaling")(image)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    return keras.Model(image, end(layers.GlobalAveragePooling2D()(x)))


def dense(activation, units=3):
    return lambda x: layers.Dense(units, activation=activation)(x)


def then(layer, activation=None):
    return lambda x: layer(layers.Dense(3, activation=activation)(x))


def measured(model, change=None, value_range=None, **options):
    """Compares a model with its copy, changed or not."""
    graph = channel_graph(model)
    copy = rebuild(graph, **options)
    if change is not None:
        change(copy)
    flat = channel_graph(copy)
    return measure_exactness(model, graph, value_range, flat, copy)


def scale_kernel(name, factor):
    def change(model):
        kernel, *others = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel * factor, *others])

    return change


ENDS = [
    pytest.param(dense(None), id="logits"),
    pytest.param(dense("softmax"), id="fused-softmax"),
    pytest.param(dense("sigmoid"), id="fused-sigmoid"),
    pytest.param(dense("log_softmax"), id="fused-log-softmax"),
    pytest.param(then(layers.Softmax()), id="softmax-layer"),
    pytest.param(then(layers.Activation("sigmoid")), id="sigmoid-layer"),
    pytest.param(then(ops.softmax), id="softmax-operation"),
    pytest.param(then(ops.log_softmax), id="log-softmax-operation"),
    pytest.param(then(layers.Softmax(), "softmax"), id="two-of-them"),
    pytest.param(dense("tanh"), id="no-probabilities"),
]


@pytest.mark.parametrize("end", ENDS)
def test_copies_are_exact_whatever_the_model_ends_in(end):
    found = measured(network(end=end))
    assert found.is_exact
    assert found.gap < 1e-6


@pytest.mark.parametrize("end", ENDS)
def test_a_kernel_that_differs_is_found(end):
    found = measured(network(end=end), scale_kernel("conv", 1.001))
    assert not found.is_exact
    assert found.gap > 1e-5
    assert found.layer == "conv"


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_small_probabilities_are_compared_by_their_logarithms(activation):
    """Their difference would be lost beside a probability of 1."""

    def end(x):
        layer = layers.Dense(3, activation=activation, name="classes")
        x = layer(x)
        kernel, _ = layer.get_weights()
        layer.set_weights([kernel, np.array([0.0, -25.0, -30.0])])
        return x

    def change(model):
        kernel, bias = model.get_layer("classes").get_weights()
        model.get_layer("classes").set_weights([kernel, bias * [1, 1, 1.01]])

    found = measured(network(end=end), change)
    assert found.gap == pytest.approx(0.3 / 30, rel=0.2)
    assert not found.is_exact


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_saturated_answers_hide_no_difference(activation):
    def end(x):
        layer = layers.Dense(2, activation=activation, name="classes")
        x = layer(x)
        layer.set_weights([np.zeros((4, 2)), np.array([500.0, -500.0])])
        return x

    model = network(end=end)
    assert measured(model).is_exact
    found = measured(model, scale_kernel("conv", 2))
    assert found.gap == 0
    assert found.layer == "conv"
    assert not found.is_exact


@pytest.mark.parametrize(
    ("value_range", "is_exact"),
    [((-1, 1), True), ((0, 255), False), (None, False)],
)
def test_images_come_from_the_value_range(value_range, is_exact):
    """Below 1 the two models do the same, above it they do not."""

    def capped(limit):
        image = keras.Input((8, 8, 3))
        x = layers.ReLU(max_value=limit, name="cap")(image)
        x = layers.Flatten()(layers.Conv2D(2, 3, name="conv")(x))
        return keras.Model(image, layers.Dense(2, name="classes")(x))

    model, other = capped(1.0), capped(300.0)
    other.set_weights(model.get_weights())
    graph = channel_graph(model)
    found = measure_exactness(
        model, graph, value_range, channel_graph(other), other
    )
    assert found.is_exact == is_exact
    assert found.layer == (None if is_exact else "cap")


def test_random_images_differ_in_every_pixel_and_stay_in_range():
    traced = channel_graph(network()).trace
    images = random_images(traced, (-3, 5))
    assert images.shape == (2, 8, 8, 3)
    assert -3 <= images.min() < -1 and 3 < images.max() <= 5
    assert len(np.unique(images)) == images.size
    np.testing.assert_array_equal(images, random_images(traced, (-3, 5)))
    assumed = random_images(traced)
    assert assumed[0].max() > 200 and assumed[1].max() <= 1


def test_whole_numbers_for_integer_images():
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Flatten()(layers.Conv2D(2, 3)(ops.cast(image, "float32")))
    model = keras.Model(image, layers.Dense(2)(x))
    images = random_images(channel_graph(model).trace, (0, 9))
    assert set(images.ravel()) <= set(range(10))
    assert measured(model).is_exact


def test_image_size_may_be_unknown():
    model = network((None, None, 3))
    assert random_images(channel_graph(model).trace).shape == (2, 64, 64, 3)
    assert measured(model).is_exact


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_compared_with_itself(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = network(end=then(layers.Softmax(dtype="float32")))
    finally:
        keras.config.set_dtype_policy("float32")
    assert measured(model, dtype=None).gap < 1e-6
    assert not measured(model, dtype="float32").is_exact


def test_no_number_is_as_good_as_no_number():
    model, other = network(factor=np.inf), network()
    assert measured(model).is_exact
    graph, flat = channel_graph(model), channel_graph(other)
    found = measure_exactness(model, graph, flat=flat, logits=other)
    assert found.gap == np.inf
    assert found.layer == "rescaling"


def test_random_state_stays_as_it_is():
    model = network(end=then(layers.Dropout(0.5)))
    graph = channel_graph(model)
    copy = rebuild(graph)
    keras.utils.set_random_seed(3)
    drawn = random.random(), np.random.random(), keras.random.uniform((2,))
    keras.utils.set_random_seed(3)
    measure_exactness(model, graph, flat=channel_graph(copy), logits=copy)
    again = random.random(), np.random.random(), keras.random.uniform((2,))
    np.testing.assert_array_equal(again[2], drawn[2])
    assert again[:2] == drawn[:2]


def test_difference_is_refused_with_gap_and_layer():
    model = network()
    graph = channel_graph(model)
    copy = rebuild(graph)
    scale_kernel("conv", 3)(copy)
    with pytest.raises(
        UnsupportedModelError,
        match="within 1e-05 .* gap of .*, first at layer 'conv'. All that",
    ):
        check_exactness(model, graph, flat=channel_graph(copy), logits=copy)


def test_model_that_does_not_run_on_the_images_is_refused():
    image = keras.Input((8, 8, 1), dtype="int32")
    x = layers.Reshape((8, 8, 2))(layers.Embedding(5, 2)(image))
    x = layers.Flatten()(layers.Conv2D(2, 3)(x))
    model = keras.Model(image, layers.Dense(2)(x))
    if keras.backend.backend() == "tensorflow":  # Others clip the index.
        with pytest.raises(UnsupportedModelError, match="Declare `value_range"):
            measured(model)
    assert measured(model, value_range=(0, 4)).is_exact


def test_output_gap_is_relative_to_the_largest_value():
    expected = np.array([[4.0, -8.0], [1.0, 2.0]])
    gap = output_gap(expected + [[0, 0], [0, 0.5]], expected)
    assert gap == 0.5 / 8
    assert np.isnan(output_gap(expected * np.nan, expected))
