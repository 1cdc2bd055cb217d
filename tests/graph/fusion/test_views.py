import itertools

import keras
import pytest

from kmod.graph.fusion.views import Tensors
from kmod.graph.fusion.views import View
from kmod.graph.fusion.views import covers
from kmod.graph.fusion.views import view_of
from kmod.graph.fusion.views import views_of
from kmod.graph.fusion.views import whole
from kmod.graph.fusion.views import wides_of


@pytest.fixture
def tensors():
    numbers = itertools.count()
    return Tensors(lambda name: f"{name}_{next(numbers)}")


def test_view_of_all_parts_is_the_tensor_itself(tensors):
    tensor = keras.Input((4, 5))
    parts = views_of(tensor, [2, 3])
    both = View(parts[0].parts + parts[1].parts)
    assert tensors.of(both) is tensor
    assert tensors.of(view_of(tensor)) is tensor
    assert both == whole(both.parts[0][0])


def test_parts_are_split_off_once(tensors):
    one, two = views_of(keras.Input((4, 5)), [2, 3])
    assert tensors.of(one).shape == (None, 4, 2)
    assert tensors.of(two).shape == (None, 4, 3)
    assert tensors.of(one) is tensors.of(one)
    operations = [tensors.of(v)._keras_history.operation for v in (one, two)]
    assert operations[0] is operations[1]


def test_flat_view(tensors):
    one, _ = views_of(keras.Input((4, 5)), [2, 3])
    assert tensors.of(View(one.parts, is_flat=True)).shape == (None, 8)


def test_widen_tells_where_views_lie(tensors):
    one, two = views_of(keras.Input((4, 5)), [2, 3])
    other = view_of(keras.Input((4, 1)))
    mixed = View(other.parts + two.parts)
    first, second = tensors.widen([one, mixed])
    (wide,) = wides_of([first, second])
    assert wide.sizes == (2, 3, 1)
    assert [index for _, index in first.parts] == [0]
    assert [index for _, index in second.parts] == [2, 1]
    assert second.sizes == mixed.sizes == (1, 3)
    assert tensors.widen([one, two]) == [one, two]


def test_covers():
    one, two = views_of(keras.Input((4, 5)), [2, 3])
    assert covers([one, two])
    assert covers([View(two.parts + one.parts)])
    assert not covers([one])
