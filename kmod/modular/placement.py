"""Where masks, gains, scales and shifts stand in a source model."""

import dataclasses

import keras
import numpy as np

from kmod.errors import UsageError
from kmod.graph import ChannelGraph
from kmod.graph.calls import Call
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.table import rule_for
from kmod.modular.selection import families_of


@dataclasses.dataclass(frozen=True)
class Placement:
    """What masks may remove and what classes may adapt.

    Attributes:
        may_go: Boolean array `(num_groups,)`, the groups masks may remove.
        sizes: Float array `(num_groups,)`, kernels in each group.
        home: int64 array `(num_groups,)`, the first layer of each group.
        families: Sets of groups of which at least one must remain.
        adapted: First column of each adapted layer in the scale and shift
            matrices.
        num_adapted: Number of columns of those matrices.
        gained: First column of each layer that reads masked channels in the
            gain matrix.
        num_gained: Number of columns of that matrix.
    """

    may_go: np.ndarray
    sizes: np.ndarray
    home: np.ndarray
    families: list[np.ndarray]
    adapted: dict[str, int]
    num_adapted: int
    gained: dict[str, int]
    num_gained: int

    @property
    def least_retention(self) -> float:
        """Retention rate if everything that may go went."""
        return float(self.sizes[~self.may_go].sum() / self.sizes.sum())


def place(
    graph: ChannelGraph, mask_from: str | None, scale_and_shift: bool
) -> Placement:
    """Works out what masks may remove behind a given layer.

    Args:
        graph: Channel graph of the flat source model.
        mask_from: Name of the first layer whose kernels masks may remove;
            all layers before it are the stem that classes share. Defaults to
            the first layer.
        scale_and_shift: Whether classes scale and shift the channels that
            layers make, and scale those that they read.

    Returns:
        The `Placement`.

    Raises:
        UsageError: If `mask_from` is not a layer with kernels, or nothing
            can be removed from there on.
    """
    table = graph.kernels
    first = _first_masked(table.layers, mask_from)
    may_go = table.free.copy()
    home = np.full(table.num_groups, len(table.layers))
    for index, layer in enumerate(table.layers):
        groups = table.groups[table.ids_of(layer)]
        home[groups] = np.minimum(home[groups], index)
        if index < first:
            may_go[groups] = False
    if not may_go.any():
        raise UsageError(
            "`mask_from` must leave kernels that can be removed. Received: "
            f"mask_from={mask_from!r}, behind which all kernels are pinned. "
            "Name an earlier layer; `kmod inspect` lists them."
        )
    sizes = np.bincount(table.groups, minlength=table.num_groups)
    adapted = _adapted(graph, may_go) if scale_and_shift else {}
    gained = _gained(graph, may_go) if scale_and_shift else {}
    return Placement(
        may_go,
        sizes.astype("float32"),
        home,
        families_of(graph, may_go),
        _first_columns(adapted),
        sum(adapted.values()),
        _first_columns(gained),
        sum(gained.values()),
    )


def _first_masked(layers, mask_from):
    if mask_from is None:
        return 0
    if mask_from not in layers:
        raise UsageError(
            "`mask_from` must be a layer with kernels, one of "
            f"{list(layers)}. Received: mask_from={mask_from!r}"
        )
    return layers.index(mask_from)


def _first_columns(widths):
    ends = np.cumsum([0, *widths.values()])
    return dict(zip(widths, ends.tolist()))


def _gained(graph, may_go):
    """Maps layers that read channels which may go to how many they read."""
    names = [call.name for call in graph.trace.calls]
    widths = {}
    for call in graph.trace.calls:
        groups = graph.groups_of(call.inputs[0]) if call.inputs else None
        if groups is None or not np.any((groups >= 0) & may_go[groups]):
            continue
        if (
            isinstance(rule_for(call), KernelRule)
            and names.count(call.name) < 2
        ):
            widths[call.name] = len(groups)
    return widths


def _adapted(graph, may_go):
    """Maps layers whose output can be scaled and shifted to their width."""
    normalised = {
        ref.index
        for call in graph.trace.calls
        if isinstance(call.operation, keras.layers.BatchNormalization)
        for ref in call.inputs
    }
    calls = graph.trace.calls
    names = [call.name for call in calls]
    widths = {}
    for call in calls:
        groups = graph.groups_of(call.outputs[0])
        if groups is None or not np.any((groups >= 0) & may_go[groups]):
            continue
        shared = names.count(call.name) > 1
        normalises_later = call.outputs[0].index in normalised
        if _can_fold(call) and not shared and not normalises_later:
            widths[call.name] = len(groups)
    return widths


def _can_fold(call: Call) -> bool:
    """Tells whether a layer's weights can take a scale and a shift up."""
    layer = call.operation
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.scale and layer.center
    return (
        isinstance(rule_for(call), KernelRule)
        and layer.use_bias
        and layer.activation is keras.activations.linear
    )
