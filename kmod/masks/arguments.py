"""Checks of what a modular model is given."""

import math
from collections.abc import Sequence

from kmod.errors import UsageError
from kmod.masks.macs import Macs
from kmod.masks.placement import Placement
from kmod.masks.recipe import Recipe


def checked_names(
    class_names: Sequence[str] | None, num_classes: int
) -> tuple[str, ...]:
    """Returns class names, numbers as text where none are given.

    Raises:
        UsageError: If they are not `num_classes` different names.
    """
    if class_names is None:
        return tuple(str(index) for index in range(num_classes))
    names = tuple(class_names)
    if (
        len(set(names)) != num_classes
        or len(names) != num_classes
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise UsageError(
            f"`class_names` must be {num_classes} different names, one for "
            f"each output of the source model. Received: {list(names)}"
        )
    return names


def checked_range(
    value_range: Sequence[float] | None,
) -> tuple[float, float] | None:
    """Returns a value range as two floats, `None` where none is given.

    Raises:
        UsageError: If it is not a smaller and a larger number.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise UsageError(
            "`value_range` must be the smallest and the largest pixel value "
            "that the source model takes, such as (0, 255). Received: "
            f"value_range={value_range!r}"
        )
    return low, high


def check_targets(
    recipe: Recipe, placement: Placement, macs: Macs, mask_from: str | None
) -> None:
    """Refuses targets that masks can not come down to.

    Raises:
        UsageError: If more than a target can not be removed.
    """
    target, least = recipe.retention_target, placement.least_retention
    if target is not None and target < least:
        raise UsageError(
            "`retention_target` must be at least the share of kernels that "
            f"can not be removed, {least:.3f} with mask_from={mask_from!r}. "
            f"Received: retention_target={target}. Mask from an earlier layer "
            "on, or raise the target."
        )
    target, least = recipe.macs_target, float(macs.stem / macs.total)
    if target is not None and target <= least:
        raise UsageError(
            "`macs_target` must be above the stem's share of the source "
            f"model's multiply-accumulates, {least:.3f} with "
            f"mask_from={mask_from!r}. Received: macs_target={target}. Mask "
            "from an earlier layer on, or raise the target."
        )
