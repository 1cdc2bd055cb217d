"""Tensors that lie, side by side along the channels, in wider ones."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers
from keras import ops


@dataclasses.dataclass(frozen=True, eq=False)
class Wide:
    """A tensor that holds parts of several owners, along its last axis.

    Attributes:
        tensor: The tensor.
        sizes: Channels of each part, in order.
    """

    tensor: keras.KerasTensor
    sizes: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class View:
    """Where a tensor of the model lies.

    Attributes:
        parts: Pairs of a wide tensor and the index of a part in it; the
            tensor is all of them, joined along the channels.
        is_flat: Whether it is flattened beside, positions first.
    """

    parts: tuple[tuple[Wide, int], ...]
    is_flat: bool = False

    @property
    def sizes(self) -> tuple[int | None, ...]:
        return tuple(wide.sizes[index] for wide, index in self.parts)


def view_of(tensor: keras.KerasTensor) -> View:
    """Returns the view of a tensor that lies in no other."""
    return View(((Wide(tensor, (tensor.shape[-1],)), 0),))


def views_of(
    tensor: keras.KerasTensor, sizes: Sequence[int | None]
) -> list[View]:
    """Returns the view of each part of a wide tensor."""
    wide = Wide(tensor, tuple(sizes))
    return [View(((wide, index),)) for index in range(len(wide.sizes))]


def wides_of(views: Iterable[View]) -> tuple[Wide, ...]:
    """Returns every wide tensor that views lie in, once."""
    return tuple(dict.fromkeys(w for view in views for w, _ in view.parts))


def whole(wide: Wide, is_flat: bool = False) -> View:
    """Returns the view of all of a wide tensor."""
    parts = tuple((wide, index) for index in range(len(wide.sizes)))
    return View(parts, is_flat)


def covers(views: Iterable[View]) -> bool:
    """Tells whether views hold all that is in their wide tensors."""
    views = list(views)
    held = {part for view in views for part in view.parts}
    return all(held.issuperset(whole(w).parts) for w in wides_of(views))


class Tensors:
    """Makes tensors of views, each no more than once.

    Args:
        names: Gives every layer made here a name, from what it does.
    """

    def __init__(self, names: Callable[[str], str]):
        self._made = {}
        self._names = names

    def of(self, view: View) -> keras.KerasTensor:
        """Returns the tensor that a view stands for."""
        if view not in self._made:
            if view.is_flat:
                image = self.of(dataclasses.replace(view, is_flat=False))
                self._made[view] = layers.Flatten(name=self._names("flat"))(
                    image
                )
            else:
                self._made[view] = self._join(view)
        return self._made[view]

    def _join(self, view):
        first = view.parts[0][0]
        if view == whole(first):
            return first.tensor
        pieces = [self._pieces(wide)[index] for wide, index in view.parts]
        return pieces[0] if len(pieces) == 1 else self.beside(pieces)

    def _pieces(self, wide):
        if len(wide.sizes) == 1:
            return [wide.tensor]
        if wide not in self._made:
            stops = np.cumsum(wide.sizes)[:-1].tolist()
            pieces = ops.split(wide.tensor, stops, axis=-1)
            operation = pieces[0]._keras_history.operation
            operation.name = self._names("parts")
            self._made[wide] = pieces
        return self._made[wide]

    def beside(self, tensors: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        """Joins tensors along the channels."""
        layer = layers.Concatenate(
            name=self._names("joined"), dtype=tensors[0].dtype
        )
        return layer(tensors)

    def widen(self, views: Sequence[View]) -> list[View]:
        """Joins all that views lie in; returns where they lie in that."""
        wides = wides_of(views)
        if len(wides) == 1:
            return list(views)
        if wides not in self._made:
            sizes = sum((wide.sizes for wide in wides), ())
            self._made[wides] = Wide(
                self.beside([w.tensor for w in wides]), sizes
            )
        starts, start = {}, 0
        for wide in wides:
            starts[wide] = start
            start += len(wide.sizes)
        joined = self._made[wides]
        return [
            View(
                tuple((joined, starts[w] + index) for w, index in view.parts),
                view.is_flat,
            )
            for view in views
        ]
