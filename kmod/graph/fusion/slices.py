"""Tensors that lie, side by side along the channels, in wider ones."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers
from keras import ops

from kmod.graph.internals import made_by


@dataclasses.dataclass(frozen=True, eq=False)
class WideTensor:
    """A tensor that holds several tensors, one behind another on its last axis.

    Attributes:
        tensor: The tensor.
        sizes: Channels of each part, in order.
    """

    tensor: keras.KerasTensor
    sizes: tuple[int | None, ...]

    @property
    def parts(self) -> tuple[tuple["WideTensor", int], ...]:
        """All its parts, as a `Slice` names them."""
        return tuple((self, index) for index in range(len(self.sizes)))


@dataclasses.dataclass(frozen=True)
class Slice:
    """Where a tensor of the model lies.

    Attributes:
        parts: Pairs of a wide tensor and the index of a part in it; the
            tensor is all of them, joined along the channels.
        is_flat: Whether it is flattened as well, positions first.
    """

    parts: tuple[tuple[WideTensor, int], ...]
    is_flat: bool = False

    @property
    def sizes(self) -> tuple[int | None, ...]:
        return tuple(wide.sizes[index] for wide, index in self.parts)


def slices_of(
    tensor: keras.KerasTensor, sizes: Sequence[int | None]
) -> list[Slice]:
    """Cuts a tensor into parts of these numbers of channels."""
    return [Slice((part,)) for part in WideTensor(tensor, tuple(sizes)).parts]


def wide_tensors(slices: Iterable[Slice]) -> tuple[WideTensor, ...]:
    """Returns every wide tensor that slices lie in, once."""
    return tuple(dict.fromkeys(w for s in slices for w, _ in s.parts))


def are_complete(slices: Sequence[Slice]) -> bool:
    """Tells whether slices hold all that is in their wide tensors."""
    held = {part for one in slices for part in one.parts}
    return all(held.issuperset(w.parts) for w in wide_tensors(slices))


class SliceReader:
    """Makes tensors of slices, each no more than once.

    Args:
        names: Gives every layer made here a name, from what it does.
    """

    def __init__(self, names: Callable[[str], str]):
        self._made = {}
        self._names = names

    def read(self, one: Slice) -> keras.KerasTensor:
        """Returns the tensor that a slice stands for."""
        if one not in self._made:
            if one.is_flat:
                image = self.read(dataclasses.replace(one, is_flat=False))
                flatten = layers.Flatten(name=self._names("flat"))
                self._made[one] = flatten(image)
            else:
                self._made[one] = self._join(one.parts)
        return self._made[one]

    def _join(self, parts):
        first = parts[0][0]
        if parts == first.parts:
            return first.tensor
        pieces = [self._split(wide)[index] for wide, index in parts]
        return pieces[0] if len(pieces) == 1 else self.concatenate(pieces)

    def _split(self, wide):
        if len(wide.sizes) == 1:
            return [wide.tensor]
        if wide not in self._made:
            stops = np.cumsum(wide.sizes)[:-1].tolist()
            pieces = ops.split(wide.tensor, stops, axis=-1)
            operation = made_by(pieces[0])
            operation.name = self._names("parts")
            self._made[wide] = pieces
        return self._made[wide]

    def concatenate(
        self, tensors: Sequence[keras.KerasTensor]
    ) -> keras.KerasTensor:
        """Joins tensors along the channels."""
        layer = layers.Concatenate(
            name=self._names("joined"), dtype=tensors[0].dtype
        )
        return layer(tensors)

    def gather(self, slices: Sequence[Slice]) -> list[Slice]:
        """Joins all that slices lie in; returns where they lie in that."""
        wides = wide_tensors(slices)
        if len(wides) == 1:
            return list(slices)
        if wides not in self._made:
            self._made[wides] = WideTensor(
                self.concatenate([wide.tensor for wide in wides]),
                sum((wide.sizes for wide in wides), ()),
            )
        parts = sum((wide.parts for wide in wides), ())
        moved = dict(zip(parts, self._made[wides].parts, strict=True))
        return [
            Slice(tuple(moved[part] for part in one.parts), one.is_flat)
            for one in slices
        ]
