"""Well-known networks are cut exactly; the benchmark makes a table of them."""

import functools

import keras
import numpy as np
import pytest
from keras import applications
from keras import layers

from kmod.graph import channel_graph
from kmod.graph.exactness import measure_exactness
from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
from kmod.zoo.build import build

TOLERANCE = 1e-4
# The same where float32 rounds, which in a deep network of random weights can
# make more than this of either side, measured up to 3e-5.
EXACT = 1e-5
# What the answers must differ between images for a comparison to say much.
LEAST_SPREAD = 5 * TOLERANCE

SLOW = (
    "SimCNN",
    "ResCNN",
    "InceCNN",
    "VGG16",
    "ResNet50",
    "ResNet50V2",
    "MobileNetV2",
    "DenseNet121",
    "EfficientNetB0",
    "InceptionV3",
    "Xception",
    "NASNetMobile",
)


def check(exactness, model, retentions):
    row = exactness.measure(model, retentions)
    assert len(row["gaps"]) == len(retentions)
    assert max(row["gaps"].values()) < TOLERANCE
    assert min(row["spreads"].values()) > LEAST_SPREAD
    return row


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("name", ["simcnn", "rescnn", "incecnn"])
def test_small_twins(exactness, name):
    row = check(exactness, build(name, (16, 16, 3), 4), (0.3, 0.6, 0.9))
    assert row["removable"] == row["kernels"]


def test_mobilenet(exactness):
    row = check(exactness, exactness.MODELS["MobileNetV3Small"](), (0.3,))
    assert row["removable"] == row["kernels"] == 7512


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_nothing_is_pinned(exactness, name):
    row = check(exactness, exactness.MODELS[name](), exactness.RETENTIONS)
    assert row["removable"] == row["kernels"]
    assert row["pins"] == []


@pytest.mark.slow
def test_convnext_is_pinned_between_blocks(exactness):
    """Blocks end in a layer without a rule, and LayerNormalization."""
    row = check(
        exactness, exactness.MODELS["ConvNeXtTiny"](), exactness.RETENTIONS
    )
    assert row["removable"] / row["kernels"] == pytest.approx(0.643, abs=1e-3)
    assert {pin["layer"] for pin in row["pins"]} == {
        "Add",
        "Conv2D",
        "LayerNormalization",
        "LayerScale",
    }


def applications_of(*names, size=64):
    """Makes networks that are not in the benchmark's table."""
    return {
        name: functools.partial(
            getattr(applications, name),
            weights=None,
            classes=4,
            input_shape=(size, size, 3),
        )
        for name in names
    }


OTHERS = {
    **applications_of("MobileNet", "MobileNetV3Large", "EfficientNetV2B0"),
    **applications_of("ResNet101", "DenseNet169"),
    **applications_of("VGG19", size=32),
    **applications_of("InceptionResNetV2", size=75),
}
IMAGENET = [0.485, 0.456, 0.406], [0.229**2, 0.224**2, 0.225**2]


def with_statistics(exactness, inner):
    """Puts layers with statistics in front of a network, and into its own."""
    exactness.randomise(inner)
    for layer in inner._flatten_layers():
        if isinstance(layer, layers.Normalization) and layer.weights:
            mean, variance = IMAGENET
            layer.adapt_mean.assign(mean)
            layer.adapt_variance.assign(variance)
            layer.finalize_state()
    image = keras.Input(inner.input_shape[1:])
    front = layers.Normalization()
    x = front(image)
    front.adapt(exactness.random_images(inner) * [1.0, 0.7, 0.4] + 40)
    x = layers.Rescaling([60.0, 55.0, 50.0], [120.0, 110.0, 100.0])(x)
    return keras.Model(image, inner(x))


def check_statistics(exactness, model):
    """Compares without masks in float32, and with them free of rounding."""
    graph = channel_graph(model)
    found = measure_exactness(model, graph)
    assert found.is_exact
    assert found.gap < EXACT
    modular = ModularModel(model, dtype="float64")
    modular.run_eagerly = True
    exactness.randomise_classes(modular, 0.6)
    images = exactness.random_images(model)
    expected = modular.class_log_odds(images)[:, [1]]
    module = log_odds_model(cut_module(modular, 1, "float64"))
    answers = keras.ops.convert_to_numpy(module(images))
    gap = np.abs(answers - expected).max() / np.abs(expected).max()
    assert gap < EXACT


def test_statistics_in_front_of_mobilenet(exactness):
    inner = exactness.MODELS["MobileNetV3Small"]()
    check_statistics(exactness, with_statistics(exactness, inner))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SLOW, "ConvNeXtTiny", *OTHERS])
def test_statistics_in_front(exactness, name):
    inner = {**exactness.MODELS, **OTHERS}[name]()
    check_statistics(exactness, with_statistics(exactness, inner))


def test_every_model_of_the_table_is_tested(exactness):
    assert {
        *SLOW,
        "MobileNetV3Small",
        "ConvNeXtTiny",
    } == exactness.MODELS.keys()
