import keras
import numpy as np
from keras import layers

from kmod.graph.fusion.views import View
from kmod.graph.fusion.views import view_of
from kmod.graph.fusion.views import views_of
from kmod.graph.fusion.wide_layers import added_macs
from kmod.graph.fusion.wide_layers import beside
from kmod.graph.fusion.wide_layers import diagonal


def dense(kernel, bias):
    layer = layers.Dense(len(bias))
    layer.build((None, len(kernel)))
    layer.set_weights([np.array(kernel), np.array(bias)])
    return layer


def test_beside():
    first = dense([[1.0], [2.0]], [3.0])
    second = dense([[4.0, 5.0], [6.0, 7.0]], [8.0, 9.0])
    config, (kernel, bias) = beside([first, second])
    assert config["units"] == 3
    np.testing.assert_array_equal(kernel, [[1, 4, 5], [2, 6, 7]])
    np.testing.assert_array_equal(bias, [3, 8, 9])


def test_diagonal_has_zeros_elsewhere():
    first, second = dense([[1.0], [2.0]], [3.0]), dense([[4.0]], [5.0])
    one, two = views_of(keras.Input((3,)), [1, 2])
    config, (kernel, bias) = diagonal([first, second], [two, one])
    assert config["units"] == 2
    np.testing.assert_array_equal(kernel, [[0, 4], [1, 0], [2, 0]])
    np.testing.assert_array_equal(bias, [3, 5])
    assert added_macs([first, second], [two, one]) == 3


def test_diagonal_of_flat_images_goes_by_position():
    """Two positions of two channels: a position's channels lie together."""
    first, second = dense([[1.0], [2.0]], [0.0]), dense([[3.0], [4.0]], [0.0])
    one, two = views_of(keras.Input((2, 2)), [1, 1])
    flat = [View(view.parts, is_flat=True) for view in (one, two)]
    _, (kernel, _) = diagonal([first, second], flat)
    np.testing.assert_array_equal(kernel, [[1, 0], [0, 3], [2, 0], [0, 4]])
    assert added_macs([first, second], flat) == 4


def test_unknown_size_is_not_counted():
    view = view_of(keras.Input((None, None)))
    assert added_macs([dense([[1.0]], [0.0])] * 2, [view, view]) is None
