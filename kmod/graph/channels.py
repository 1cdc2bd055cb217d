"""Channel maps, and which kernels only live or die together."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef

PINNED = -1


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """The kernel behind each position of a tensor's channel axis.

    Attributes:
        axis: Index of the channel axis, counted from the batch axis 0.
        ids: int64 array, for each position a kernel id, or -1 where nothing
            can be removed.
    """

    axis: int
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pin:
    """A reason why kernels can not be removed.

    Attributes:
        layer: Name of the layer that needs its input channels whole.
        reason: Why, in words.
        kernels: int64 array of kernel ids.
    """

    layer: str
    reason: str
    kernels: np.ndarray


class ChannelSpace:
    """Kernel ids handed out so far, what ties them, and the tensors' maps.

    Layer rules read and write it while a trace is walked.
    """

    def __init__(self):
        self.maps: dict[int, ChannelMap | None] = {}
        self.layers: dict[str, np.ndarray] = {}
        self.pins: list[Pin] = []
        self._parent = np.zeros(0, np.int64)
        self._first_reads: dict[str, ChannelMap | None] = {}

    @property
    def num_kernels(self) -> int:
        return len(self._parent)

    def map_of(self, ref: TensorRef) -> ChannelMap | None:
        """Returns a tensor's channel map, `None` if all of it is fixed."""
        return self.maps.get(ref.index)

    def new_kernels(self, layer: str, count: int) -> np.ndarray:
        """Returns the kernel ids of `layer`, new ones at its first call."""
        if layer not in self.layers:
            ids = np.arange(self.num_kernels, self.num_kernels + count)
            self._parent = np.concatenate([self._parent, ids])
            self.layers[layer] = ids
        return self.layers[layer]

    def tie(self, maps: Sequence[ChannelMap | None], layer: str, reason: str):
        """Makes positions of several tensors keep the same kernels.

        Args:
            maps: Channel maps of one axis and length; `None` stands for a
                tensor whose channels are all fixed.
            layer: Name of the layer that combines the tensors.
            reason: Why a fixed tensor fixes the others too.
        """
        known = [m for m in maps if m is not None]
        if len(known) < len(maps):
            for m in known:
                self.pin(m, layer, reason)
            return
        for other in known[1:]:
            first = known[0]
            for a, b in zip(first.ids, other.ids, strict=True):
                self._tie_pair(a, b, layer, reason)

    def tie_kernels(self, ids: np.ndarray, layer: str, reason: str):
        """Makes kernels live and die together.

        Args:
            ids: int64 array of kernel ids, -1 for what is fixed.
            layer: Name of the layer that needs them so.
            reason: Why what is fixed fixes the others too.
        """
        for other in ids[1:]:
            self._tie_pair(ids[0], other, layer, reason)

    def _tie_pair(self, a, b, layer, reason):
        if a == PINNED or b == PINNED:
            self._pin_ids(np.array([max(a, b)]), layer, reason)
        else:
            a, b = sorted((self.root(a), self.root(b)))
            self._parent[b] = a

    def tie_calls(self, call: Call, read: ChannelMap | None):
        """Lets all calls of a layer with weights read the same channels."""
        first = self._first_reads.setdefault(call.name, read)
        if first is not read:
            reason = "it is shared with a place whose channels are fixed"
            self.tie([first, read], call.name, reason)

    def pin(self, channel_map: ChannelMap | None, layer: str, reason: str):
        """Marks the kernels behind a tensor as not removable."""
        if channel_map is not None:
            self._pin_ids(channel_map.ids, layer, reason)

    def _pin_ids(self, ids, layer, reason):
        ids = np.unique(ids[ids != PINNED])
        if ids.size:
            self.pins.append(Pin(layer, reason, ids))

    def root(self, kernel: int) -> int:
        """Returns the kernel that stands for the group of `kernel`."""
        while self._parent[kernel] != kernel:
            self._parent[kernel] = self._parent[self._parent[kernel]]
            kernel = self._parent[kernel]
        return int(kernel)

    def roots(self) -> np.ndarray:
        """Returns for every kernel the kernel that stands for its group."""
        return np.array([self.root(k) for k in range(self.num_kernels)], int)
