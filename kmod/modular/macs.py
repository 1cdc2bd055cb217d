"""Multiply-accumulates of modules and of their composition, from masks."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from keras import ops

from kmod.graph import ChannelGraph
from kmod.graph.channels import PINNED
from kmod.graph.rules.table import rule_for
from kmod.graph.sizes import layer_macs
from kmod.modular.placement import Placement
from kmod.modular.placement import place
from kmod.modular.recipe import DEFAULT

SHARES_IN_FRONT = 0.5, 0.9
KEPT_BEHIND = 0.1  # At least, of the kernels that can be removed.


class Macs:
    """Counts what modules cost while their masks are trained.

    A layer's multiply-accumulates go with the channels it reads times the
    channels it makes. Layers that no mask touches are the stem, which a
    composition of all modules computes once.

    Args:
        graph: Channel graph of the flat source model.
        placement: What masks may remove.
        costs: What each layer costs, by name: its multiply-accumulates, or
            what else goes with channels read times channels made.

    Attributes:
        total: Float, multiply-accumulates of the source model.
        stem: Float, those of the stem.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        placement: Placement,
        costs: Mapping[str, int],
    ):
        calls = [c for c in graph.trace.calls if costs.get(c.name)]
        self.macs = np.array([costs[c.name] for c in calls], "float32")
        makes = [_shares(graph, call.outputs[0]) for call in calls]
        reads = [_read_shares(graph, call) for call in calls]
        (self.makes, self.made), (self.reads, self.read) = (
            [np.stack(column) for column in zip(*shares)]
            for shares in (makes, reads)
        )
        is_masked = (self.makes + self.reads) @ placement.may_go > 0
        self.total, self.stem = self.macs.sum(), self.macs[~is_masked].sum()
        self.macs = np.where(is_masked, self.macs, 0)
        # Where all that a layer makes stays, it costs by what it reads.
        self.by_read = (self.makes @ placement.may_go == 0)[:, None]

    def of_modules(self, mask):
        """Returns what each module costs behind the stem, `(classes,)`.

        Args:
            mask: Tensor of zeros and ones `(classes, num_groups)`.
        """
        made = ops.matmul(mask, self.makes.T) + self.made
        read = ops.matmul(mask, self.reads.T) + self.read
        return ops.sum(made * read * self.macs, axis=1)

    def of_composition(self, mask):
        """Returns the cost of all modules, the stem once ÷ the source's."""
        return (self.stem + ops.sum(self.of_modules(mask))) / self.total

    def in_front(self, may_go: np.ndarray) -> float:
        """Returns the stem's share, 0 to 1, if fewer groups may go.

        Args:
            may_go: Boolean array `(num_groups,)`, some of the placement's.
        """
        is_masked = (self.makes + self.reads) @ may_go > 0
        return float(1 - self.macs[is_masked].sum() / self.total)

    def of_groups(self, mask):
        """Shares each module's cost out among the groups it might keep.

        Args:
            mask: Tensor `(classes, num_groups)`; it says how many channels
                each layer reads.

        Returns:
            Tensor `(classes, num_groups)`.
        """
        read = ops.matmul(mask, self.reads.T) + self.read
        by_made = np.where(self.by_read, 0, self.makes * self.macs[:, None])
        by_read = np.where(self.by_read, self.reads * self.macs[:, None], 0)
        return ops.matmul(read, by_made) + by_read.sum(axis=0)

    def of_network(self, mask: np.ndarray) -> float:
        """Returns what one network costs that keeps some groups.

        Args:
            mask: Array of zeros and ones `(num_groups,)`.
        """
        return float(self.stem + self.of_modules(mask[None])[0])

    def of_removal(self, mask: np.ndarray) -> np.ndarray:
        """Returns what is saved without each group, where it is made and read.

        Args:
            mask: Array of zeros and ones `(num_groups,)`.
        """
        made = mask @ self.makes.T + self.made
        read = mask @ self.reads.T + self.read
        return (read * self.macs) @ self.makes + (made * self.macs) @ self.reads


@dataclasses.dataclass(frozen=True)
class MaskStart:
    """A layer that masks can begin at, and what lies in front of it.

    Attributes:
        layer: Name of the layer, for `mask_from`.
        macs_in_front: Share of the source model's multiply-accumulates that
            is then in the stem, 0 to 1.
        removable: Share of all kernels that can then be removed, 0 to 1.
    """

    layer: str
    macs_in_front: float
    removable: float

    @property
    def retention_target(self) -> float:
        """The default recipe's, or more where few kernels can be removed."""
        least = 1 - (1 - KEPT_BEHIND) * self.removable
        return max(DEFAULT.retention_target, least)


def mask_starts(graph: ChannelGraph, source) -> list[MaskStart]:
    """Lists the layers that masks can begin at, in order of computation.

    Args:
        graph: Channel graph of a source model.
        source: That model.

    Returns:
        One `MaskStart` for each layer with kernels that can be removed.
    """
    if not graph.kernels.free.any():
        return []
    placement = place(graph, None, scale_and_shift=False)
    macs = Macs(graph, placement, layer_macs(source))
    starts = []
    for index, layer in enumerate(graph.kernels.layers):
        if not (placement.may_go & (placement.home == index)).any():
            continue
        may_go = placement.may_go & (placement.home >= index)
        removable = placement.sizes[may_go].sum() / placement.sizes.sum()
        starts.append(MaskStart(layer, macs.in_front(may_go), float(removable)))
    return starts


def propose_start(starts: Sequence[MaskStart]) -> MaskStart:
    """Returns the first layer with half of the cost in front of it.

    Such a stem is computed once for all classes, and most of the kernels lie
    behind it. Where nearly nothing would be behind, it is the layer with the
    nearest to half in front.
    """
    least, most = SHARES_IN_FRONT
    for start in starts:
        if least <= start.macs_in_front <= most:
            return start
    return min(starts, key=lambda start: abs(start.macs_in_front - least))


def _read_shares(graph, call):
    if not rule_for(call).mixes(call):
        return np.zeros(graph.kernels.num_groups, "float32"), np.float32(1)
    return _shares(graph, call.inputs[0])


def _shares(graph, ref):
    """Returns each group's share of a tensor's channels, and what is fixed."""
    shares = np.zeros(graph.kernels.num_groups, "float32")
    groups = graph.groups_of(ref)
    if groups is None:
        return shares, np.float32(1)
    np.add.at(shares, groups[groups != PINNED], 1 / len(groups))
    return shares, np.float32(1 - shares.sum())
