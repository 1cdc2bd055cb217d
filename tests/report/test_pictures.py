import base64

import numpy as np
import pytest
import tensorflow as tf

from kmod.analysis.explanation import AGAINST
from kmod.analysis.explanation import DENSEST
from kmod.analysis.explanation import FOR
from kmod.report.pictures import MOST_PIXELS
from kmod.report.pictures import map_source
from kmod.report.pictures import picture_source
from kmod.report.pictures import to_png


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_holds_the_pixels(channels):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (5, 7, channels)).astype("uint8")
    found = tf.io.decode_png(to_png(pixels)).numpy()
    np.testing.assert_array_equal(found, pixels)


def test_picture_is_scaled_from_its_range_and_made_small():
    image = np.linspace(-1, 1, 300 * 200 * 2).reshape(300, 200, 2)
    kind, _, content = picture_source(image, (-1, 1)).partition(",")
    assert kind == "data:image/png;base64"
    found = tf.io.decode_png(base64.b64decode(content)).numpy()
    assert found.shape == (75, 50, 1) and max(found.shape) <= MOST_PIXELS
    assert found.min() < 3 and found.max() > 252


def test_map_is_seen_through_where_nothing_is():
    values = np.array([[2.0, 0.0], [-2.0, 1.0]])
    content = map_source(values, 2.0).partition(",")[2]
    found = tf.io.decode_png(base64.b64decode(content)).numpy()
    densest = round(255 * DENSEST)
    assert found[0, 0].tolist() == [*FOR, densest]
    assert found[1, 0].tolist() == [*AGAINST, densest]
    assert found[0, 1, 3] == 0 and 0 < found[1, 1, 3] < densest
