"""Multiply-accumulates of modules and of their composition, from masks."""

import numpy as np
from keras import ops

from kmod.graph import ChannelGraph
from kmod.graph.channels import PINNED
from kmod.graph.rules.kernels import DepthwiseRule
from kmod.graph.rules.table import rule_for
from kmod.graph.sizes import layer_macs
from kmod.modular.placement import Placement


class Macs:
    """Counts what modules cost while their masks are trained.

    A layer's multiply-accumulates go with the channels it reads times the
    channels it makes. Layers that no mask touches are the stem, which a
    composition of all modules computes once.

    Args:
        graph: Channel graph of the flat source model.
        placement: What masks may remove.
        source: The flat source model.

    Attributes:
        total: Float, multiply-accumulates of the source model.
        stem: Float, those of the stem.
    """

    def __init__(self, graph: ChannelGraph, placement: Placement, source):
        macs = layer_macs(source)
        calls = [c for c in graph.trace.calls if macs.get(c.name)]
        self.macs = np.array([macs[c.name] for c in calls], "float32")
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


def _read_shares(graph, call):
    if isinstance(rule_for(call), DepthwiseRule):
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
