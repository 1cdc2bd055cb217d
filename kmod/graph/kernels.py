"""The table of all kernels of a source model."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class KernelTable:
    """Where each kernel id lives.

    Attributes:
        layers: Names of the layers that own kernels, in order of computation.
        counts: int64 array, number of kernels of each of those layers.
        groups: int64 array, for each kernel id its kernel group, 0..G-1.
        free: Boolean array, for each kernel group whether it can be removed.
    """

    layers: tuple[str, ...]
    counts: np.ndarray
    groups: np.ndarray
    free: np.ndarray

    @property
    def num_kernels(self) -> int:
        return int(self.counts.sum())

    @property
    def num_groups(self) -> int:
        return len(self.free)

    @property
    def offsets(self) -> np.ndarray:
        """First kernel id of each layer, int64 `(num_layers,)`."""
        return np.cumsum(self.counts) - self.counts

    @property
    def removable(self) -> np.ndarray:
        """Whether each kernel can be removed, boolean `(num_kernels,)`."""
        return self.free[self.groups]

    def ids_of(self, layer: str) -> np.ndarray:
        """Returns the kernel ids of a layer, by index within the layer."""
        index = self.layers.index(layer)
        return self.offsets[index] + np.arange(self.counts[index])

    def __len__(self):
        return self.num_kernels

    def rows(self) -> list[tuple[int, str, int, int]]:
        """Lists `(kernel id, layer, index in layer, group)` of every kernel."""
        return [
            (int(kernel), layer, index, int(self.groups[kernel]))
            for layer in self.layers
            for index, kernel in enumerate(self.ids_of(layer))
        ]

    def by_layer(self, mask: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Splits one 0/1 mask over kernels into kept indices by layer."""
        return {
            layer: tuple(np.flatnonzero(mask[self.ids_of(layer)]).tolist())
            for layer in self.layers
        }
