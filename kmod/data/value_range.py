"""Which range of pixel values images have."""

import numpy as np

from kmod.errors import ArtifactError
from kmod.errors import UsageError

USUAL_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
# Shares of a range. Interpolation overshoots sharp edges by less than a
# tenth; images of a usual range come at least half-way to its end.
OVERSHOOT = 0.1
REACH = 0.5
LEAST_EXTENT = 0.1


def value_range_of(
    images: np.ndarray, declared: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Returns the smallest and largest pixel value that images can have.

    Args:
        images: Array of images, `(n, ...)`.
        declared: The range that somebody said they have. Defaults to reading
            it off: bytes are from 0 to 255, other images from 0 to 1, -1 to 1
            or 0 to 255 if they stay in that and reach well into it, and else
            from their smallest to their largest value.

    Returns:
        `declared`, or what was read off.

    Raises:
        UsageError: If images lie outside the declared range or in a tiny part
            of it.
        ArtifactError: If values are not finite or, with nothing declared, all
            the same.
    """
    low, high = float(np.min(images)), float(np.max(images))
    if not np.isfinite([low, high]).all():
        raise ArtifactError(
            "Images have finite values. Received: values from "
            f"{low} to {high}. Look for what made them so."
        )
    if declared is None and images.dtype == "uint8":
        declared = (0.0, 255.0)
    if declared is None:
        return _usual_range(low, high)
    start, end = (float(value) for value in declared)
    extent = end - start
    slack = OVERSHOOT * extent
    is_inside = start - slack <= low and high <= end + slack
    if not is_inside or high - low < LEAST_EXTENT * extent:
        raise UsageError(
            "`value_range` must be that of the images given, which fill most "
            f"of it. Received: value_range=({start:g}, {end:g}) and "
            f"{images.dtype} images with values from {low:g} to {high:g}. "
            "Declare the range that the source model was trained with, and "
            "give images scaled in the same way."
        )
    return start, end


def _usual_range(low, high):
    for start, end in USUAL_RANGES:
        slack = OVERSHOOT * (end - start)
        stays = start - slack <= low and high <= end + slack
        is_signed = low < -slack
        reaches = max(abs(low), abs(high)) > REACH * end
        if stays and reaches and is_signed == (start < 0):
            return start, end
    if low == high:
        raise ArtifactError(
            "The range of values can be read off images that differ. "
            f"Received: images with no other value than {low:g}. Declare "
            "`value_range`."
        )
    return low, high
