import keras
import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.zoo.build import ARCHITECTURES
from kmod.zoo.build import build


def convolutions(model):
    layers = model.layers
    return [layer for layer in layers if isinstance(layer, keras.layers.Conv2D)]


def trainable_parameters(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.mark.parametrize(
    ("name", "kernels", "millions"),
    [
        pytest.param("simcnn", 4224, 33.65, id="simcnn"),
        pytest.param("rescnn", 4288, 16.02, id="rescnn"),
        pytest.param("incecnn", 3200, 12.64, id="incecnn"),
    ],
)
def test_full_size_is_that_of_the_paper(name, kernels, millions):
    model = build(name, (32, 32, 3), 10, small=False)
    assert sum(layer.filters for layer in convolutions(model)) == kernels
    parameters = trainable_parameters(model) / 1e6
    assert parameters == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("name", "filters"),
    [
        pytest.param("simcnn", [16, 16, 32, 32, 64, 64], id="simcnn"),
        pytest.param("rescnn", [16, 32, 32, 32, 64, 64, 64, 64], id="rescnn"),
        pytest.param("incecnn", [16, 32, 32, 32, 8, 32, 32, 8], id="incecnn"),
    ],
)
def test_small_twin_has_these_kernels(name, filters):
    model = build(name, (32, 32, 3), 10)
    assert [layer.filters for layer in convolutions(model)] == filters


def test_rescnn_adds_the_input_of_the_second_stage():
    model = build("rescnn", (32, 32, 3), 10)
    joined = [
        tensor._keras_history[0].name
        for tensor in model.get_layer("add_4").input
    ]
    assert joined == ["relu_4", "pool_1"]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (2, 3, 3)])
def test_probabilities_for_any_image_size(name, shape):
    model = build(name, shape, 5)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape))
    scores = model.predict(images, verbose=0)
    assert [layer.name for layer in model.layers[-2:]] == [
        "logits",
        "probabilities",
    ]
    np.testing.assert_allclose(scores.sum(axis=1), [1, 1], rtol=1e-5)


def test_full_size_puts_a_border_around_small_images():
    model = build("rescnn", (28, 28, 1), 10, small=False)
    assert model.get_layer("border").output.shape[1:3] == (32, 32)
    larger = build("rescnn", (32, 32, 3), 10, small=False)
    assert "border" not in [layer.name for layer in larger.layers]


def test_width_multiplies_the_kernels():
    model = build("simcnn", (8, 8, 1), 10, width=0.25)
    filters = [layer.filters for layer in convolutions(model)]
    assert filters == [4, 4, 8, 8, 16, 16]
    assert model.get_layer("hidden_1").units == 16


def test_names_are_the_same_every_time():
    first, second = (build("incecnn", (8, 8, 1), 10) for _ in range(2))
    names = [layer.name for layer in first.layers]
    assert names == [layer.name for layer in second.layers]
    assert {"conv_1", "bn_2", "conv_block_2_5x5", "logits"} <= set(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("vgg", (8, 8, 1), 10), "'incecnn'.*name='vgg'", id="name"
        ),
        pytest.param(
            ("simcnn", (None, 8, 1), 10), "each known. Received", id="unknown"
        ),
        pytest.param(("simcnn", (8, 8), 10), "Leave the batch", id="rank"),
        pytest.param(("simcnn", (8, 8, 1), 1), "num_classes=1", id="classes"),
        pytest.param(("simcnn", (8, 8, 1), 2, True, 0), "width=0", id="width"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        build(*arguments)
