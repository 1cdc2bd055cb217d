"""Well-known networks are cut exactly; the benchmark makes a table of them."""

import keras
import pytest

from kmod.zoo.build import build

TOLERANCE = 1e-4
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


def test_every_model_of_the_table_is_tested(exactness):
    assert {
        *SLOW,
        "MobileNetV3Small",
        "ConvNeXtTiny",
    } == exactness.MODELS.keys()
