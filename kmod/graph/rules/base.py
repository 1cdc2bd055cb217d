"""What every layer rule answers."""

import abc
import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import Call
from kmod.graph.channels import ChannelMap
from kmod.graph.channels import ChannelSpace
from kmod.graph.internals import parts_of

Replacement = tuple[Callable, list[np.ndarray] | None]


@dataclasses.dataclass(frozen=True)
class Kept:
    """The part of a tensor's channels that a cut model has.

    Attributes:
        axis: Index of the channel axis, counted from the batch axis 0.
        positions: Sorted int64 positions along that axis.
    """

    axis: int
    positions: np.ndarray

    def __len__(self):
        return len(self.positions)


class LayerRule(abc.ABC):
    """How channels flow through one kind of layer, and how it is cut."""

    def mixes(self, call: Call) -> bool:
        """Tells whether what a channel becomes depends on other channels.

        Masks stand in front of such a layer. It must answer the same on
        channels that are zero as without them.
        """
        return False

    @abc.abstractmethod
    def flow(self, call: Call, space: ChannelSpace) -> list[ChannelMap | None]:
        """Returns the channel map of every output of `call`."""

    def cut(
        self,
        call: Call,
        inputs: Sequence[Kept | None],
        outputs: Sequence[Kept | None],
    ) -> Replacement:
        """Returns the layer that works on the kept channels only.

        Args:
            call: The call to replace.
            inputs: What is kept of each input tensor, `None` for all.
            outputs: What is kept of each output tensor, `None` for all.

        Returns:
            Tuple `(layer, weights)`: what to call instead, and the arrays to
            set once it is built (`None` if it has none).
        """
        return copy_of(call.operation)


class PinningRule(LayerRule):
    """Needs its input channels whole; nothing about it is known.

    Args:
        reason: Why, in words, for `kmod inspect`.
    """

    def __init__(self, reason):
        self.reason = reason

    def flow(self, call, space):
        for ref in call.inputs:
            space.pin(space.map_of(ref), call.name, self.reason)
        return [None] * len(call.outputs)


class LookupRule(PinningRule):
    """A layer that looks values up in a vocabulary.

    An adapted one keeps it in a table of its own. The copy has it in its
    config, as if it was made with it.
    """

    def cut(self, call, inputs, outputs):
        vocabulary = call.operation.get_vocabulary(include_special_tokens=False)
        known = [int(value) for value in vocabulary]
        return copy_of(call.operation, vocabulary=known)


def copy_of(operation: Any, **changes: Any) -> Replacement:
    """Returns a copy of a layer with changed config, and its weights.

    Args:
        operation: A layer or a Keras operation.
        **changes: Config entries to replace.

    Returns:
        Tuple `(layer, weights)`, the layer not built yet; an operation has no
        weights.

    Raises:
        UnsupportedModelError: If it can not be made from its config.
    """
    kind, config = type(operation), {**operation.get_config(), **changes}
    try:
        copy = kind.from_config(config)
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(
            "A layer of a source model must be what its `get_config` says, "
            "because modules are made from that. Received: the layer "
            f"{operation.name!r} of type {kind.__name__}, whose `from_config` "
            f"fails: {str(error).strip().rpartition(chr(10))[2]} Mend "
            "its `get_config`."
        ) from error
    if not isinstance(operation, keras.layers.Layer):
        return copy, None
    return copy, operation.get_weights()


def set_state(layer: keras.layers.Layer, weights: Sequence[np.ndarray]) -> None:
    """Gives a layer weights, and all that it works out of them.

    Some layers compute with what they derive from their weights, such as an
    adapted `Normalization`. They derive it anew when they are loaded from a
    file, so every layer, nested ones as well, reads back what it would save.

    Args:
        layer: Built layer or model. It is changed.
        weights: Arrays as `layer.get_weights()` returns them.
    """
    layer.set_weights(weights)
    for part in parts_of(layer):
        saved = {}
        part.save_own_variables(saved)
        part.load_own_variables(saved)


def channel_axis(layer: keras.layers.Layer, rank: int) -> int:
    """Returns the channel axis that an image layer works on."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else rank - 1


def take(array: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
    """Returns `array` with only the kept positions along `axis`."""
    if kept is None:
        return array
    return np.take(array, kept.positions, axis=axis)
