"""Well-known networks are cut exactly; the benchmark makes a table of them."""

import functools

import keras
import numpy as np
import pytest
from keras import applications
from keras import layers

from kmod.export.keras_file import load_keras_file
from kmod.graph import channel_graph
from kmod.graph.exactness import measure_exactness
from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
from kmod.zoo.build import build

pytestmark = pytest.mark.long

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
    "ConvNeXtTiny",
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
    gap = (
        np.abs(log_odds(modular, 1, images) - expected).max()
        / np.abs(expected).max()
    )
    assert gap < EXACT


def test_statistics_in_front_of_mobilenet(exactness):
    inner = exactness.MODELS["MobileNetV3Small"]()
    check_statistics(exactness, with_statistics(exactness, inner))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SLOW, *OTHERS])
def test_statistics_in_front(exactness, name):
    inner = {**exactness.MODELS, **OTHERS}[name]()
    check_statistics(exactness, with_statistics(exactness, inner))


def test_every_model_of_the_table_is_tested(exactness):
    assert {*SLOW, "MobileNetV3Small"} == exactness.MODELS.keys()


def mini_xception(num_classes=7, image_shape=(64, 64, 1)):
    """The emotion classifier of the package `fer`, of random weights.

    Arriaga et al., 2017, https://arxiv.org/abs/1710.07557, "mini_XCEPTION".
    """

    def normalised(x, is_active=True):
        x = layers.BatchNormalization()(x)
        return layers.Activation("relu")(x) if is_active else x

    def separable(x, filters):
        return layers.SeparableConv2D(
            filters, 3, padding="same", use_bias=False
        )(x)

    image = keras.Input(image_shape)
    x = normalised(layers.Conv2D(8, 3, use_bias=False)(image))
    x = normalised(layers.Conv2D(8, 3, use_bias=False)(x))
    for filters in (16, 32, 64, 128):
        short = layers.Conv2D(filters, 1, 2, "same", use_bias=False)(x)
        short = normalised(short, is_active=False)
        x = normalised(separable(x, filters))
        x = normalised(separable(x, filters), is_active=False)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = layers.Add()([x, short])
    x = layers.Conv2D(num_classes, 3, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Activation("softmax")(x))


def test_emotion_classifier_from_legacy_hdf5(exactness, tmp_path):
    saved = mini_xception()
    exactness.randomise(saved)
    path = tmp_path / "emotions.hdf5"
    saved.save(path)
    model = load_keras_file(path, allow_custom=True)
    images = exactness.random_images(model)
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), saved.predict(images, verbose=0)
    )
    modular = ModularModel(model, dtype="float64")
    modular.run_eagerly = True
    assert modular.num_classes == 7
    assert modular.kernels.removable.all()
    exactness.randomise_classes(modular, 0.6)
    expected = modular.class_log_odds(images)
    scale = np.abs(expected[:, 2]).max()
    gap, wrong = (
        np.abs(log_odds(modular, index, images) - expected[:, [2]]).max()
        / scale
        for index in (2, 3)
    )
    assert gap < EXACT
    assert wrong > 1000 * EXACT  # Another class's module is told apart.
    assert np.ptp(expected[:, 2]) / scale > 1000 * EXACT


def log_odds(modular, class_index, images):
    module = log_odds_model(cut_module(modular, class_index, "float64"))
    return keras.ops.convert_to_numpy(module(images))
