"""What a source can say of an image by itself: whether it is like its own.

It is the mean of every class's image statistics and one covariance for all
classes, of the source's own images.
"""

import dataclasses
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kmod.data.batches import iter_batches
from kmod.data.batches import to_arrays
from kmod.data.image_data import LabelledImages
from kmod.data.replicas import predict_batch
from kmod.data.streaming import predict
from kmod.data.value_range import value_range_of
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.files.plain_yaml import broken
from kmod.modules.adaptation import GREY
from kmod.modules.adaptation import RGB
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import StoreManifest

FOLDS = 10
BATCH_SIZE = 256
# Standard deviation that is added to every statistic's: what never differs
# among a source's images may differ a little among others like them.
LEAST_DEVIATION = 0.02
QUANTILES = np.linspace(0, 1, 1001)
MAX_BYTES = 2**26
LEAST_IMAGES = 2  # Of a class.
MOST_IMAGES = 20_000
CONFIDENCE = 1.645  # Standard deviations that 5 % exceed.


@dataclasses.dataclass(frozen=True, eq=False)
class Familiarity:
    """Statistics of a source model's own images; see `image_statistics`.

    Attributes:
        class_names: The classes that there were images of.
        means: float32 array `(num_classes, size)`.
        covariance: float32 array `(size, size)`, of images around the mean of
            their class, shrunken.
        distances: float32 array `(1001,)`: quantiles, from 0 to 1, of the
            `distance` of own images that it was not fitted on.
        num_images: Number of images.
    """

    class_names: tuple[str, ...]
    means: np.ndarray
    covariance: np.ndarray
    distances: np.ndarray
    num_images: int

    def __repr__(self):
        return (
            f"<Familiarity of {len(self.class_names)} classes, "
            f"{self.num_images} images>"
        )

    def distance(self, statistics: np.ndarray) -> np.ndarray:
        """Returns how far images are from those of the nearest class.

        Args:
            statistics: Float array `(n, size)`.

        Returns:
            Float array `(n,)`, Mahalanobis distances to the nearest mean.
        """
        return _distance(statistics, self.means, self.covariance)

    def distance_of(
        self, images: np.ndarray, contract: InputContract
    ) -> np.ndarray:
        """Measures images and returns their `distance`.

        Args:
            images: Array `(n, height, width, channels)`.
            contract: What they are.

        Raises:
            ArtifactError: If they can not be brought to 32x32 in colour.
        """
        from kmod.modules.image_statistics import statistics_model

        measured = predict(statistics_model(contract), images, BATCH_SIZE)
        return self.distance(measured)

    def threshold(self, rejected: float) -> float:
        """Returns the distance that few of a source's own images exceed.

        It is set a little higher than on the images that it was measured on,
        for the share to hold on others at a confidence of 95 %.

        Args:
            rejected: Share of own images that exceeds it at most, above 0 and
                below 1.
        """
        deviation = np.sqrt(rejected * (1 - rejected) / self.num_images)
        share = max(rejected - CONFIDENCE * deviation, 0.0)
        return float(np.interp(1 - share, QUANTILES, self.distances))

    @property
    def spread(self) -> float:
        """Standard deviation of the `distances` of own images."""
        return max(float(self.distances.std()), 1e-3)


def can_be_familiar(labels: np.ndarray, contract: InputContract) -> bool:
    """Tells whether there is a familiarity of images.

    Args:
        labels: int64 array `(n,)` of class indices.
        contract: What images the source takes.
    """
    *size, channels = contract.shape
    are_enough = np.bincount(labels).max() >= LEAST_IMAGES
    return are_enough and None not in size and channels in (GREY, RGB)


def fit_familiarity(
    data: Sequence[Any], class_names: Sequence[str], contract: InputContract
) -> Familiarity:
    """Fits the familiarity of a source on images of its own.

    The network plays no part, so the images that it was trained on serve as
    well as others. Of large arrays, images at even steps are taken.

    Args:
        data: List of `(images, labels)` or batched data, labels indices of
            the classes.
        class_names: Names of the classes.
        contract: What images the source takes.

    Raises:
        UsageError: If no class has at least two images.
        ValueError: If labels are not of the classes.

    Reference:

    - [Lee et al., 2018](https://arxiv.org/abs/1807.03888): distances to class
      means under a common covariance.
    - [Chen et al., 2010](https://arxiv.org/abs/0907.4698), equation 23: how
      far the covariance is shrunken.
    """
    statistics, labels = _measured(data, len(class_names), contract)
    counts = np.bincount(labels, minlength=len(class_names))
    known = np.flatnonzero(counts >= LEAST_IMAGES)
    if not len(known):
        raise UsageError(
            "Familiarity takes at least two images of a class. Received: "
            f"{len(labels)} images, of each class {counts.tolist()}. Give "
            "more of the images that the source model knows."
        )
    kept = np.isin(labels, known)
    statistics = statistics[kept]
    labels = np.searchsorted(known, labels[kept])
    fold = _folds(labels)
    whole = _Moments.of(statistics, labels, len(known))
    distances = []
    for number in range(FOLDS):
        own = fold == number
        part = _Moments.of(statistics[own], labels[own], len(known))
        distances.append(_distance(statistics[own], *whole.without(part).fit()))
    means, covariance = whole.fit()
    return Familiarity(
        tuple(class_names[index] for index in known),
        means.astype("float32"),
        covariance.astype("float32"),
        np.quantile(np.concatenate(distances), QUANTILES).astype("float32"),
        len(labels),
    )


def familiarity_of_store(
    manifest: StoreManifest, data: Sequence[Any]
) -> Familiarity:
    """Fits the familiarity of a store's source; see `fit_familiarity`.

    Args:
        manifest: Manifest of the store.
        data: As for `fit_familiarity`. Labels are indices of the manifest's
            classes; of one class they are 1 where an image shows it, else 0.

    Raises:
        UsageError: If there are no images of any class, or if they lie
            outside the store's value range.
        ValueError: If labels are not of the classes.
    """
    names = manifest.class_names
    if len(names) == 1:
        names = f"not {names[0]}", names[0]
    for each in data:
        images, _ = next(iter_batches(each))
        value_range_of(images, manifest.input.range)
    return fit_familiarity(data, names, manifest.input)


@dataclasses.dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over images from which means and covariance follow."""

    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, statistics, labels, num_classes):
        is_class = np.eye(num_classes)[labels]
        squares = statistics.T @ statistics
        return cls(is_class.sum(0), is_class.T @ statistics, squares)

    def without(self, part):
        return _Moments(
            self.counts - part.counts,
            self.sums - part.sums,
            self.squares - part.squares,
        )

    def fit(self):
        means = self.sums / np.maximum(self.counts, 1)[:, None]
        free = max(self.counts.sum() - np.sum(self.counts > 0), 1)
        scatter = (
            self.squares - means.T @ (means * self.counts[:, None])
        ) / free
        covariance = scatter + LEAST_DEVIATION**2 * np.eye(len(scatter))
        return means[self.counts > 0], _shrunken(covariance, free)


def _shrunken(covariance, count):
    """Draws correlations towards none, the more the fewer images there are."""
    deviation = np.sqrt(covariance.diagonal())
    correlation = covariance / np.outer(deviation, deviation)
    size, squared = len(correlation), np.sum(correlation**2)
    shrinkage = ((1 - 2 / size) * squared + size**2) / (
        (count + 1 - 2 / size) * (squared - size)
    )
    correlation *= 1 - min(shrinkage, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation * np.outer(deviation, deviation)


def _distance(statistics, means, covariance):
    from scipy.linalg import solve_triangular

    root = np.linalg.cholesky(covariance.astype("float64"))
    own, centres = (
        solve_triangular(root, (x - means[0]).T, lower=True).T
        for x in (statistics, means)
    )
    squared = (
        np.sum(own**2, axis=1)[:, None]
        - 2 * own @ centres.T
        + np.sum(centres**2, axis=1)
    )
    return np.sqrt(np.maximum(squared.min(axis=1), 0.0))


def _folds(labels):
    """Numbers the parts of the images, in which all classes are alike."""
    order = np.argsort(labels, kind="stable")
    fold = np.empty(len(labels), "int64")
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold


def _measured(data, num_classes, contract):
    from kmod.modules.image_statistics import statistics_model

    model = statistics_model(contract)
    statistics, labels = [], []
    for each in map(_some, data):
        for images, own in iter_batches(each, BATCH_SIZE, num_classes):
            statistics.append(predict_batch(model, images))
            labels.append(own)
    statistics = np.concatenate(statistics).astype("float64")
    return statistics, np.concatenate(labels)


def _some(data):
    """Takes images at even steps, where there are too many."""
    if not isinstance(data, (tuple, LabelledImages)):
        return data
    images, labels = to_arrays(data)
    step = -(-len(images) // MOST_IMAGES)
    return images[::step], labels[::step]


def write_familiarity(path: Path, familiarity: Familiarity) -> None:
    """Writes a familiarity as an `.npz` file."""
    deviation = np.sqrt(familiarity.covariance.diagonal())
    correlation = familiarity.covariance / np.outer(deviation, deviation)
    middle = familiarity.means.mean(axis=0)
    # Within a thousandth of a deviation, at half the size.
    scaled = (familiarity.means - middle) / deviation
    np.savez(
        path,
        class_names=np.array(familiarity.class_names),
        middle=middle,
        means=scaled.astype("float16"),
        deviation=deviation,
        correlation=correlation[np.tril_indices(len(deviation), -1)],
        distances=familiarity.distances,
        num_images=familiarity.num_images,
    )


def read_familiarity(content: bytes, path: Path) -> Familiarity:
    """Reads what `write_familiarity` wrote.

    Args:
        content: Content of the file.
        path: Its path, for errors.

    Raises:
        IntegrityError: If it holds anything else.
    """
    try:
        return _read(content)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise broken(
            path, f"it holds no familiarity: {reason_of(error)}"
        ) from error


def _read(content):
    from kmod.modules.image_statistics import SIZE

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
            raise ValueError("it unpacks to more than 64 MiB")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        found = dict(stored)
    names, deviation = found["class_names"], found["deviation"]
    size = len(deviation)
    if size != SIZE:
        raise ValueError(
            f"there are {size} statistics in it, where {SIZE} are measured "
            "now. Measure again with `kmod familiarity`"
        )
    wanted = {
        "means": (len(names), size),
        "middle": (size,),
        "correlation": (size * (size - 1) // 2,),
        "distances": QUANTILES.shape,
    }
    for key, shape in wanted.items():
        is_finite = np.issubdtype(found[key].dtype, np.floating) and np.all(
            np.isfinite(found[key])
        )
        if found[key].shape != shape or not is_finite:
            raise ValueError(f"its {key} must be finite, of shape {shape}")
    if names.dtype.kind != "U" or not len(names) or not np.all(deviation > 0):
        raise ValueError("it names no class, or a statistic never differs")
    correlation = np.eye(size, dtype="float32")
    correlation[np.tril_indices(size, -1)] = found["correlation"]
    correlation = np.maximum(correlation, correlation.T) + np.minimum(
        correlation, correlation.T
    )
    np.fill_diagonal(correlation, 1.0)
    means = found["means"].astype("float32") * deviation + found["middle"]
    covariance = correlation * np.outer(deviation, deviation)
    np.linalg.cholesky(covariance.astype("float64"))
    return Familiarity(
        tuple(names.tolist()),
        means.astype("float32"),
        covariance.astype("float32"),
        found["distances"].astype("float32"),
        int(found["num_images"]),
    )
