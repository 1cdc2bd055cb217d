"""Which kernels a class keeps, given its mask scores."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from kmod.graph import ChannelGraph


def positive_scores(scores):
    """Keeps every kernel group with a score above zero.

    Args:
        scores: Float tensor `(num_classes, num_groups)`.

    Returns:
        Tensor of zeros and ones of that shape.
    """
    return ops.cast(scores > 0, "float32")


def top_scores(scores, *limits):
    """Keeps the groups with the highest scores while they fit in budgets.

    Args:
        scores: Float tensor `(num_classes, num_groups)`.
        *limits: Tuples `(costs, budget)`: what keeping each group costs,
            `(num_groups,)` or `(num_classes, num_groups)`, and what a class
            may spend, a scalar.

    Returns:
        Tensor of zeros and ones, `(num_classes, num_groups)`.
    """
    scores = ops.convert_to_tensor(scores)
    order = ops.argsort(-scores, axis=-1)
    fits = ops.ones_like(scores)
    for costs, budget in limits:
        costs = ops.broadcast_to(costs, scores.shape)
        spent = ops.cumsum(ops.take_along_axis(costs, order, axis=-1), axis=-1)
        fits = fits * ops.cast(spent <= budget, scores.dtype)
    return ops.take_along_axis(fits, ops.argsort(order, axis=-1), axis=-1)


def shares_of(limits):
    """Returns what part of what a class may spend each group takes.

    Removing a large group costs more and frees more: importances are compared
    as multiples of this.

    Args:
        limits: Tuples `(costs, budget)` as `top_scores` takes them.

    Returns:
        Tensor or array of the costs' shape, above zero.
    """
    return ops.maximum(sum(costs / budget for costs, budget in limits), 1e-6)


def keep_best(mask, scores, families: Sequence[np.ndarray]):
    """Switches the best group on in every family that lost all of its own.

    No layer of a module may become empty: a cut layer without kernels does
    not exist, so the masked model must not have one either.

    Args:
        mask: Tensor of zeros and ones, `(num_classes, num_groups)`.
        scores: Float tensor of that shape.
        families: Integer arrays of groups, one of which must remain.

    Returns:
        `mask` with at least one group on in every family.
    """
    for family in families:
        own = ops.take(scores, family, axis=1)
        empty = ops.max(ops.take(mask, family, axis=1), axis=1, keepdims=True)
        best = ops.one_hot(ops.argmax(own, axis=1), len(family))
        revived = ops.cast(best, "float32") * (1 - empty)
        columns = ops.one_hot(family, mask.shape[1])
        mask = mask + ops.matmul(revived, ops.cast(columns, "float32"))
    return ops.minimum(mask, 1)


def families_of(graph: ChannelGraph, may_go: np.ndarray) -> list[np.ndarray]:
    """Lists the sets of groups of which at least one must remain.

    Args:
        graph: Channel graph of the source model.
        may_go: Boolean array `(num_groups,)`, which groups can be removed.

    Returns:
        Sorted integer arrays of groups: the channels of each tensor whose
        channels can all go, the smallest sets only.
    """
    found = set()
    for call in graph.trace.calls:
        for ref in (*call.inputs, *call.outputs):
            groups = graph.groups_of(ref)
            if groups is not None and np.all(groups >= 0):
                if np.all(may_go[groups]):
                    found.add(frozenset(groups.tolist()))
    minimal = []
    for family in sorted(found, key=lambda f: (len(f), sorted(f))):
        if not any(known <= family for known in minimal):
            minimal.append(family)
    return [np.array(sorted(family)) for family in minimal]
