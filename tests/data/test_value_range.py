import numpy as np
import pytest

from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
from kmod.data.value_range import scale_values
from kmod.data.value_range import value_range_of
from kmod.errors import ArtifactError
from kmod.errors import UsageError


def images(low, high, dtype="float32"):
    return np.linspace(low, high, 2 * 4 * 4).reshape(2, 4, 4, 1).astype(dtype)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        pytest.param(0, 255, "uint8", (0, 255), id="bytes"),
        pytest.param(90, 150, "uint8", (0, 255), id="pale-bytes"),
        pytest.param(0, 250, "int64", (0, 255), id="whole-numbers"),
        pytest.param(0, 1, "float32", (0, 1), id="0-to-1"),
        pytest.param(0.2, 0.7, "float32", (0, 1), id="pale-0-to-1"),
        pytest.param(-0.04, 1.06, "float32", (0, 1), id="overshoot"),
        pytest.param(-1, 1, "float32", (-1, 1), id="-1-to-1"),
        pytest.param(-1, 0.4, "float64", (-1, 1), id="dark-1-to-1"),
        pytest.param(3, 240, "float32", (0, 255), id="0-to-255"),
        pytest.param(0, 16, "float32", (0, 16), id="digits"),
        pytest.param(0, 0.4, "float32", (0, 0.4), id="not-well-into-it"),
        pytest.param(-2.5, 2, "float32", (-2.5, 2), id="standardised"),
        pytest.param(-40, 255, "float32", (-40, 255), id="mean-taken-off"),
    ],
)
def test_range_is_read_off(low, high, dtype, expected):
    found = value_range_of(images(low, high, dtype))
    assert found == pytest.approx(expected)
    assert all(isinstance(value, float) for value in found)


@pytest.mark.parametrize(
    ("low", "high", "declared"),
    [
        pytest.param(0, 255, (0, 255), id="all-of-it"),
        pytest.param(0, 100, (0, 255), id="dark"),
        pytest.param(-10, 270, (0, 255), id="overshoot"),
        pytest.param(0, 1, (-1, 1), id="half-of-it"),
        pytest.param(-2.1, 2.6, (-2.5, 2.7), id="standardised"),
    ],
)
def test_declared_range_counts(low, high, declared):
    assert value_range_of(images(low, high), declared) == declared


@pytest.mark.parametrize(
    ("low", "high", "dtype", "declared"),
    [
        pytest.param(0, 1, "float32", (0, 255), id="tiny-part"),
        pytest.param(-1, 1, "float32", (0, 255), id="signed-tiny-part"),
        pytest.param(0, 16, "float32", (0, 255), id="digits"),
        pytest.param(0, 255, "uint8", (0, 1), id="outside"),
        pytest.param(-1, 1, "float32", (0, 1), id="below"),
        pytest.param(0, 1, "uint8", None, id="tiny-part-of-bytes"),
    ],
)
def test_range_that_images_contradict_is_refused(low, high, dtype, declared):
    with pytest.raises(UsageError, match="`value_range` .* values from .* to"):
        value_range_of(images(low, high, dtype), declared)


def test_values_must_be_finite():
    wrong = images(0, 1)
    wrong[1, 2, 3] = np.nan
    with pytest.raises(ArtifactError, match="finite values. Received: values"):
        value_range_of(wrong, (0, 1))


def test_images_of_one_value_have_no_range():
    with pytest.raises(ArtifactError, match="no other value than 0.*Declare"):
        value_range_of(images(0, 0))


def bytes_data():
    part = LabelledImages(images(0, 255, "uint8"), np.array([0, 1]))
    none = part.take(np.array([], int))
    return ImageData("a", "1", ("0", "1"), (0.0, 255.0), part, part, none)


def test_values_are_scaled_to_what_a_model_takes():
    data, scaled = bytes_data(), scale_values(bytes_data(), (-1, 1))
    assert scaled.value_range == (-1.0, 1.0)
    assert scaled.train.images.dtype == "float32"
    expected = data.train.images / 127.5 - 1
    np.testing.assert_allclose(scaled.train.images, expected, atol=1e-6)
    assert len(scaled.test) == 0
    alone = UnlabelledImages(data.train.images, data.value_range, "a")
    alone = scale_values(alone, (-1, 1))
    assert alone.value_range == (-1.0, 1.0) and alone.name == "a"
    np.testing.assert_array_equal(alone.images, scaled.train.images)


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, np.inf)])
def test_range_to_scale_to_must_rise(value_range):
    with pytest.raises(UsageError, match="smallest and the largest pixel"):
        scale_values(bytes_data(), value_range)
