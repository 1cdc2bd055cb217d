"""Images of data sets as a composed model takes and labels them."""

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from kmod.composition.composition_manifest import CompositionManifest
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.data.load import load_named
from kmod.data.own_images import file_options
from kmod.errors import ArtifactError
from kmod.modules.adaptation import adapt_images
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import InputContract
from kmod.spec.model import DataRef

NUM_COMPARED = 64


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Reads data sets for a model, whatever their images are.

    Images are adapted to what the model takes, and labelled in its classes by
    the names of the data set's.

    Attributes:
        input: What the model takes.
        size: How images are brought to its size.
        class_names: The model's classes.
        other: Label for images of classes that the model lacks; `None` leaves
            them out.
        aliases: Labels for further names, those of the modules that score a
            class together: trucks are vehicles.
    """

    input: InputContract
    size: Literal["resize", "pad"]
    class_names: tuple[str, ...]
    other: int | None = None
    aliases: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def load(
        self,
        data: DataRef,
        data_dir: str | Path | None = None,
        images_per_class: int | None = None,
    ) -> LabelledImages:
        """Loads the images that a spec names.

        Args:
            data: The data set and its split. Images from files are brought
                to the size that the model takes.
            data_dir: Directory of the prepared data sets.
            images_per_class: How many images of each class of the data set to
                draw, at most; always the same ones. Defaults to all.

        Raises:
            ArtifactError: If the data set can not be loaded, or as `read`.
        """
        if isinstance(data.name, Path):
            options = file_options(data.name, self.input.shape)
            loaded = load_data(data.name, **options)
        else:
            loaded = load_named(data.name, data_dir)
        if images_per_class is not None:
            loaded = _keep(loaded, data.split, _draw, images_per_class)
        return self.read(loaded, data.split)

    def read(self, data: ImageData, split: str) -> LabelledImages:
        """Returns the images of a split.

        Args:
            data: Data set.
            split: `"train"`, `"validation"` or `"test"`.

        Raises:
            ArtifactError: If the images can not be adapted, or none is of the
                model's classes.
        """
        return self._label(self.adapt(data, split), data.class_names)

    def adapt(self, data: ImageData, split: str) -> LabelledImages:
        """Returns the images of a split, labelled as the data set does."""
        found = data.images_of(split)
        # Keras itself turns images of another data type into the model's.
        own = InputContract(
            found.images.shape[1:], self.input.dtype, tuple(data.value_range)
        )
        if own == self.input:
            return found
        own = InputContract(own.shape, str(found.images.dtype), own.range)
        adaptation = plan_adaptation(own, self.input, self.size)
        images = adapt_images(found.images, adaptation)
        return LabelledImages(images, found.labels)

    def first_images(self, data: ImageData, split: str) -> np.ndarray:
        """Returns a few images of a split, of the model's data type."""
        data = _keep(data, split, lambda labels, n: np.arange(n), NUM_COMPARED)
        return self.adapt(data, split).images.astype(self.input.dtype)

    def _label(self, images, data_classes):
        names = {name: i for i, name in enumerate(self.class_names)}
        known = {**self.aliases, **names}
        if known.keys().isdisjoint(data_classes):
            raise ArtifactError(
                "A data set must show classes of the model, of the same "
                f"names. Received: a data set of {list(data_classes)} for a "
                f"model of {list(names)}. Take another data set, or name the "
                "classes as it does."
            )
        outside = -1 if self.other is None else self.other
        indices = [known.get(name, outside) for name in data_classes]
        labels = np.array(indices)[images.labels]
        kept = labels >= 0
        if kept.all():
            return LabelledImages(images.images, labels)
        return LabelledImages(images.images[kept], labels[kept])


def _keep(data, split, choose, count):
    """Returns a data set with only some images in one split."""
    images = data.images_of(split)
    kept = images.take(choose(images.labels, count))
    return dataclasses.replace(data, **{split: kept})


def _draw(labels, count):
    """Draws some images of each label."""
    random = np.random.default_rng(0)
    members = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return np.sort(
        np.concatenate([random.permutation(m)[:count] for m in members])
    )


def reader_of_manifest(manifest: CompositionManifest) -> ImageReader:
    """Returns what reads images for a composed model."""
    names = manifest.class_names
    other = None if manifest.other is None else names.index(manifest.other)
    aliases = _aliases(
        (names.index(source["class"]), source["module"])
        for source in manifest.sources
        if not source.get("auxiliary")
    )
    return ImageReader(manifest.input, manifest.size, names, other, aliases)


def _aliases(modules):
    """Labels the names of modules that share a class, each with no other."""
    modules = list(modules)
    sizes = collections.Counter(index for index, _ in modules)
    owners = collections.defaultdict(set)
    for index, name in modules:
        owners[name].add(index)
    return {
        name: index
        for name, (index, *others) in owners.items()
        if sizes[index] > 1 and not others
    }
