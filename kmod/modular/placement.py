"""Where masks, gains, scales and shifts stand in a source model."""

import dataclasses

import keras
import numpy as np

from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph import ChannelGraph
from kmod.graph.calls import Call
from kmod.graph.kernels import KernelTable
from kmod.graph.rules.joins import is_concatenation
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.table import rule_for

# Normalisation layers whose gamma and beta take up a class's scale and shift.
SCALED_AND_SHIFTED = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """What masks may remove and what classes may adapt.

    Attributes:
        may_go: Boolean array `(num_groups,)`, the groups masks may remove.
        sizes: Float array `(num_groups,)`, kernels in each group.
        home: int64 array `(num_groups,)`, the first layer of each group.
        families: Sets of groups of which at least one must remain.
        adapted: Names of the layers whose output classes scale and shift.
        gained: Names of the layers that have a gain for each channel they
            read.
    """

    may_go: np.ndarray
    sizes: np.ndarray
    home: np.ndarray
    families: list[np.ndarray]
    adapted: tuple[str, ...]
    gained: tuple[str, ...]

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
        UnsupportedModelError: If nothing can be removed at all.
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
    if not table.free.any():
        raise UnsupportedModelError(
            "A source model must have kernels that can be removed, in front "
            "of its output layer. Received: "
            f"{graph.trace.name!r}, of whose {len(table)} kernels none can. "
            + (graph.pins_in_words() or "Put a convolution in front of it.")
        )
    if not may_go.any():
        raise UsageError(
            "`mask_from` must leave kernels that can be removed. Received: "
            f"mask_from={mask_from!r}, behind which all kernels are pinned. "
            "Name an earlier layer; `kmod inspect` lists them."
        )
    sizes = np.bincount(table.groups, minlength=table.num_groups)
    return Placement(
        may_go,
        sizes.astype("float32"),
        home,
        families_of(graph, may_go),
        _adapted(graph, may_go) if scale_and_shift else (),
        _gained(graph, may_go) if scale_and_shift else (),
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


def _gained(graph, may_go):
    """Lists the layers that read channels which may go."""
    calls = graph.trace.calls
    names = [call.name for call in calls]
    return tuple(
        call.name
        for call in calls
        if isinstance(rule_for(call), KernelRule)
        and rule_for(call).mixes(call)
        and names.count(call.name) == 1
        and _any_may_go(graph, call.inputs[0], may_go)
    )


def _adapted(graph, may_go):
    """Lists the layers whose output can be scaled and shifted."""
    calls = graph.trace.calls
    names = [call.name for call in calls]
    normalised = {
        ref.index
        for call in calls
        if isinstance(call.operation, keras.layers.BatchNormalization)
        for ref in call.inputs
    }
    return tuple(
        call.name
        for call in calls
        if names.count(call.name) == 1
        and _can_fold(call)
        and call.outputs[0].index not in normalised
        and _any_may_go(graph, call.outputs[0], may_go)
    )


def _any_may_go(graph, ref, may_go):
    groups = graph.groups_of(ref)
    return groups is not None and bool(np.any((groups >= 0) & may_go[groups]))


def _can_fold(call: Call) -> bool:
    """Tells whether a layer's weights can take a scale and a shift up."""
    layer = call.operation
    if isinstance(layer, SCALED_AND_SHIFTED):
        return layer.scale and layer.center
    return (
        isinstance(rule_for(call), KernelRule)
        and layer.use_bias
        and layer.activation is keras.activations.linear
    )


def families_of(
    graph: ChannelGraph, may_go: np.ndarray, joined_may_go: bool = False
) -> list[np.ndarray]:
    """Lists the sets of groups of which at least one must remain.

    Args:
        graph: Channel graph of the source model.
        may_go: Boolean array `(num_groups,)`, which groups can be removed.
        joined_may_go: Whether all groups of a concatenation's input may go.

    Returns:
        Sorted integer arrays of groups: the channels of each tensor whose
        channels can all go, the smallest sets only.
    """
    found = set()
    for call in graph.trace.calls:
        for ref in (*call.inputs, *call.outputs):
            groups = graph.groups_of(ref)
            if groups is None or not np.all((groups >= 0) & may_go[groups]):
                continue
            if not (joined_may_go and _is_only_joined(graph, ref)):
                found.add(frozenset(groups.tolist()))
    minimal = []
    for family in sorted(found, key=lambda f: (len(f), sorted(f))):
        if not any(known <= family for known in minimal):
            minimal.append(family)
    return [np.array(sorted(family)) for family in minimal]


def _is_only_joined(graph, ref):
    """Tells whether only concatenations read a tensor.

    Layers may lie between that work on each channel by itself and whose
    output has these channels alone.
    """
    readers = [c for c in graph.trace.calls if ref in c.inputs]
    return bool(readers) and all(_joins(graph, ref, c) for c in readers)


def _joins(graph, ref, call):
    channels = graph.map_of(ref)
    if is_concatenation(call):
        return call.operation.axis % ref.rank == channels.axis
    if rule_for(call).mixes(call) or len(call.outputs) > 1:
        return False
    made = graph.groups_of(call.outputs[0])
    same = made is not None and {*made} == {*graph.groups_of(ref)}
    return same and _is_only_joined(graph, call.outputs[0])


def to_groups(
    masks: np.ndarray, kernels: KernelTable, placement: Placement, rows: int
) -> np.ndarray:
    """Checks kernel masks and returns them by kernel group.

    Args:
        masks: Array `(rows, num_kernels)` of 0 and 1.
        kernels: The source model's kernels.
        placement: What masks may remove.
        rows: Expected number of masks.

    Returns:
        Float array `(rows, num_groups)`.

    Raises:
        UsageError: If shape or values are wrong, kernels of a group disagree,
            a kernel that must stay is 0, or a layer would lose all kernels.
    """
    masks = np.asarray(masks)
    expected = (rows, kernels.num_kernels)
    if masks.shape != expected or not np.isin(masks, (0, 1)).all():
        raise UsageError(
            f"Kernel masks are 0/1 arrays of shape {expected}, one row per "
            f"class. Received: shape={masks.shape}, "
            f"values={np.unique(masks)[:5].tolist()}"
        )
    groups = np.zeros((rows, kernels.num_groups), "float32")
    groups[:, kernels.groups] = masks
    _check(
        groups[:, kernels.groups] == masks,
        kernels,
        "Kernels that are joined, by a residual connection say, are kept or "
        "removed together",
    )
    stays = (~placement.may_go)[kernels.groups]
    _check(
        (masks == 1) | ~stays,
        kernels,
        "Kernels of the stem and pinned kernels must be kept",
    )
    for family in placement.families:
        if not groups[:, family].any(axis=1).all():
            layer = kernels.layers[placement.home[family[0]]]
            raise UsageError(
                "Every layer keeps at least one kernel in every class. "
                f"Received: none of layer {layer!r} in class "
                f"{int(np.argmin(groups[:, family].any(axis=1)))}"
            )
    return groups


def _check(holds, kernels, rule):
    if not holds.all():
        row, kernel = np.argwhere(~holds)[0]
        _, layer, index, _ = kernels.rows()[kernel]
        raise UsageError(
            f"{rule}. Received: a mask that breaks this at kernel {kernel} "
            f"(number {index} of layer {layer!r}) in class {row}"
        )
