import itertools

import keras
import pytest

from kmod.graph.fusion.slices import Slice
from kmod.graph.fusion.slices import SliceReader
from kmod.graph.fusion.slices import are_complete
from kmod.graph.fusion.slices import slices_of
from kmod.graph.fusion.slices import wide_tensors


@pytest.fixture
def reader():
    numbers = itertools.count()
    return SliceReader(lambda name: f"{name}_{next(numbers)}")


def test_slice_of_all_parts_is_the_tensor_itself(reader):
    tensor = keras.Input((4, 5))
    parts = slices_of(tensor, [2, 3])
    both = Slice(parts[0].parts + parts[1].parts)
    assert reader.read(both) is tensor
    assert reader.read(*slices_of(tensor, [5])) is tensor
    (wide,) = wide_tensors(parts)
    assert both.parts == wide.parts


def test_parts_are_split_off_once(reader):
    one, two = slices_of(keras.Input((4, 5)), [2, 3])
    assert reader.read(one).shape == (None, 4, 2)
    assert reader.read(two).shape == (None, 4, 3)
    assert reader.read(one) is reader.read(one)
    operations = [reader.read(s)._keras_history.operation for s in (one, two)]
    assert operations[0] is operations[1]


def test_flat_slice_has_all_positions(reader):
    one, _ = slices_of(keras.Input((4, 5)), [2, 3])
    assert reader.read(Slice(one.parts, is_flat=True)).shape == (None, 8)


def test_gather_tells_where_slices_lie(reader):
    one, two = slices_of(keras.Input((4, 5)), [2, 3])
    (other,) = slices_of(keras.Input((4, 1)), [1])
    mixed = Slice(other.parts + two.parts)
    first, second = reader.gather([one, mixed])
    (wide,) = wide_tensors([first, second])
    assert wide.sizes == (2, 3, 1)
    assert [index for _, index in first.parts] == [0]
    assert [index for _, index in second.parts] == [2, 1]
    assert second.sizes == mixed.sizes == (1, 3)
    assert reader.gather([one, two]) == [one, two]


def test_slices_that_hold_all_parts_are_complete():
    one, two = slices_of(keras.Input((4, 5)), [2, 3])
    assert are_complete([one, two])
    assert are_complete([Slice(two.parts + one.parts)])
    assert not are_complete([one])
