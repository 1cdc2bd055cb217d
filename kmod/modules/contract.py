"""What modules must keep to: what a store promises, and how it is measured."""

import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import numpy as np

from kmod.data.disk_arrays import take
from kmod.data.image_data import LabelledImages
from kmod.modules.manifest import StoreManifest

# How far accuracy may fall below what was measured: other hardware may round
# another way, and move an image that lies on a border.
MARGIN = 0.01
# Largest difference from the answers that were stored, relative to the largest.
EXACTNESS = 1e-3
REJECTED = 0.05
# Images at even steps that suffice to see how answers change.
MOST_IMAGES = 2000


def contract_of(
    manifest: StoreManifest,
    source: str | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Returns the contract of a new store, as far as its manifest tells it.

    Args:
        manifest: Its manifest.
        source: Path of the source model's file from the store, if known.
        checks: Further lines, as plain data.

    Returns:
        Plain data for `StoreManifest.contract`.
    """
    lines = [
        {"metric": "exactness", "max": EXACTNESS},
        {"metric": "score_range", "min": 0, "max": 1},
    ]
    data = _data(manifest.data)
    accuracy = manifest.metrics.get("after", {}).get("accuracy")
    # The accuracy is that of one answer for all classes.
    is_whole = len(manifest.modules) == len(manifest.class_names) > 1
    if data is not None and accuracy is not None and is_whole:
        least = max(math.floor((accuracy - MARGIN) * 1e4) / 1e4, 0.0)
        lines.append({"metric": "accuracy", "min": least, "data": data})
    if data is not None and manifest.familiarity is not None:
        lines.append({"metric": "rejection", "max": REJECTED, "data": data})
    contract = {"checks": [*lines, *map(dict, checks)]}
    return contract if source is None else {**contract, "source": source}


def latency_check(ratio: float) -> dict[str, Any]:
    """Returns a line that allows twice the latency that was measured.

    Args:
        ratio: Latency of all modules composed, divided by the source's.
    """
    return {"metric": "latency", "max": math.ceil(20 * ratio) / 10}


def further_checks(contract: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the lines of a contract that no manifest tells."""
    checks = contract["checks"] if contract else []
    return [line for line in checks if line["metric"] == "latency"]


def _data(data):
    """Names the held-out images as a spec does."""
    if data.get("split") not in ("train", "validation", "test"):
        return None
    if "path" in data:
        return {"path": data["path"], "split": data["split"]}
    if not data.get("name"):
        return None
    return {"name": data["name"], "split": data["split"]}


def some(images: LabelledImages) -> LabelledImages:
    """Takes images at even steps, where there are very many."""
    step = -(-len(images) // MOST_IMAGES)
    if step <= 1:
        return images
    kept = np.arange(0, len(images), step)
    return LabelledImages(take(images.images, kept), images.labels[kept])


def changed_images(
    images: np.ndarray,
    shift: int | None = None,
    flip: Literal["horizontal", "vertical"] | None = None,
) -> Iterator[np.ndarray]:
    """Yields images, changed so that they still show the same.

    Args:
        images: Array `(n, height, width, channels)`.
        shift: By how many pixels they are moved down, up, right and left, each
            once; the row or column at the edge is repeated.
        flip: Which way they are mirrored: `"horizontal"` swaps left and right.
    """
    if flip is not None:
        yield np.flip(images, axis=2 if flip == "horizontal" else 1)
    if shift is not None:
        for axis in (1, 2):
            for steps in (shift, -shift):
                size = images.shape[axis]
                origin = np.clip(np.arange(size) - steps, 0, size - 1)
                yield np.take(images, origin, axis=axis)


def changed_share(
    answer: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    shift: int | None = None,
    flip: Literal["horizontal", "vertical"] | None = None,
) -> float:
    """Measures how many answers change if images do.

    Args:
        answer: Images to the class index of each, or whether it shows a class.
        images: Array `(n, height, width, channels)`.
        shift: As in `changed_images`; of the four moves the mean counts.
        flip: As in `changed_images`.

    Returns:
        Share of answers that are others than before, 0 to 1.
    """
    before = answer(images)
    shares = [
        np.mean(answer(changed) != before)
        for changed in changed_images(images, shift, flip)
    ]
    return float(np.mean(shares))


def largest_difference(answers: np.ndarray, stored: np.ndarray) -> float:
    """Returns how far answers are from stored ones.

    Args:
        answers: Float array.
        stored: Float array of the same shape.

    Returns:
        The largest difference, relative to the largest stored answer if that
        is above 1; infinite if there is one that is no number.
    """
    if answers.shape != stored.shape or not np.isfinite(answers).all():
        return math.inf
    return float(np.abs(answers - stored).max() / max(1, np.abs(stored).max()))


def path_from(directory: Path, contract: Any) -> Path | None:
    """Returns where a contract says that the source model's file is."""
    source = contract and contract.get("source")
    return (directory / source).resolve() if source else None
