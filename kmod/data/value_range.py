"""Which range of pixel values images have."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kmod.data.disk_arrays import collect
from kmod.data.disk_arrays import parts
from kmod.data.image_data import SPLITS
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
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
    extremes = [(np.min(part), np.max(part)) for part in parts(images)]
    low, high = float(np.min(extremes)), float(np.max(extremes))
    check_values(low, high)
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


def check_values(
    low: float, high: float, value_range: tuple[float, float] | None = None
) -> None:
    """Refuses values that can not be those of images, or of these images.

    Augmentation may leave the range, so only another scale is refused.

    Args:
        low: The smallest value of all images.
        high: The largest one.
        value_range: Smallest and largest pixel value that a model takes.
            Defaults to any.

    Raises:
        ArtifactError: If they are not finite.
        UsageError: If they are of another scale than the range.
    """
    if not np.isfinite([low, high]).all():
        raise ArtifactError(
            "Images have finite values. Received: values from "
            f"{low} to {high}. Look for what made them so."
        )
    if value_range is None:
        return
    start, end = value_range
    share = (high - low) / (end - start)
    if not LEAST_EXTENT <= share <= 1 / LEAST_EXTENT:
        raise UsageError(
            "Images to train on must be scaled as those to validate on. "
            f"Received: values from {low:g} to {high:g}, where the source "
            f"model takes {start:g} to {end:g}. Scale both in the same way."
        )


def checked_range(
    value_range: Sequence[float] | None,
) -> tuple[float, float] | None:
    """Returns the range of values that somebody says a model takes.

    Args:
        value_range: Smallest and largest pixel value, or `None`.

    Raises:
        UsageError: If it is not a smaller and a larger number.
    """
    if value_range is None:
        return None
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not -np.inf < low < high < np.inf:
        raise UsageError(
            "`value_range` must be the smallest and the largest pixel value "
            "that the model takes, such as (0, 255). Received: "
            f"value_range={value_range!r}. Images scaled by 1/255 are from 0 "
            "to 1."
        )
    return low, high


def scale_values(
    data: ImageData | UnlabelledImages, value_range: Sequence[float]
) -> ImageData | UnlabelledImages:
    """Returns images with their values in the range that a model takes.

    Args:
        data: Data set, or images alone.
        value_range: What its smallest and its largest pixel value become.

    Raises:
        UsageError: If they do not rise.
    """
    low, high = checked_range(value_range)
    start, end = data.value_range
    scale = np.float32((high - low) / (end - start))

    def scaled(images):
        if not len(images):
            return images.astype("float32")
        (found,) = collect(
            (
                (part.astype("float32") - np.float32(start)) * scale
                + np.float32(low),
            )
            for part in parts(images)
        )
        return found

    if isinstance(data, UnlabelledImages):
        return UnlabelledImages(scaled(data.images), (low, high), data.name)
    found = {split: getattr(data, split) for split in SPLITS}
    return dataclasses.replace(
        data,
        value_range=(low, high),
        **{
            split: LabelledImages(scaled(each.images), each.labels)
            for split, each in found.items()
        },
    )
