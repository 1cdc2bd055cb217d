"""Images of data sets as a composed model takes and labels them."""

import collections
import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import numpy as np

from kmod.composition.composition_manifest import CompositionManifest
from kmod.data.batches import class_names_of
from kmod.data.batches import to_arrays
from kmod.data.disk_arrays import take
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
from kmod.data.load import load_data
from kmod.data.load import load_named
from kmod.data.load import load_unlabelled
from kmod.data.load import unlabelled_of
from kmod.data.own_images import file_options
from kmod.data.value_range import value_range_of
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.modules.adaptation import adapt_images
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import InputContract
from kmod.spec.model import IN_MEMORY
from kmod.spec.model import DataRef
from kmod.spec.model import Spec

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
        renamed: Labels for the names of modules that score a class of another
            name alone, for data that do not show it by its own.
        given: Labelled images that stand in the place of data sets.
    """

    input: InputContract
    size: Literal["resize", "pad"]
    class_names: tuple[str, ...]
    other: int | None = None
    aliases: Mapping[str, int] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    given: Mapping[DataRef, Any] = dataclasses.field(default_factory=dict)

    def load(
        self,
        data: DataRef,
        data_dir: str | Path | None = None,
        images_per_class: int | None = None,
    ) -> LabelledImages:
        """Loads the images that a spec names, or those given for them.

        Args:
            data: The data set and its split. Images from files are brought
                to the size that the model takes.
            data_dir: Directory of the prepared data sets.
            images_per_class: How many images of each class of the data set to
                draw, at most; always the same ones. Defaults to all.

        Raises:
            ArtifactError: If the data set can not be loaded, or as `read`.
        """
        loaded = self.given.get(data)
        if loaded is None:
            loaded = self._loaded(data, data_dir)
        elif not isinstance(loaded, ImageData):
            return self._read_given(loaded, images_per_class)
        if images_per_class is not None:
            loaded = _keep(loaded, data.split, _draw, images_per_class)
        return self.read(loaded, data.split)

    def _loaded(self, data, data_dir):
        if data.name == IN_MEMORY.name:
            raise not_given(data)
        if isinstance(data.name, Path):
            options = file_options(data.name, self.input.shape)
            return load_data(data.name, splits=[data.split], **options)
        return load_named(data.name, data_dir, splits=[data.split])

    def _read_given(self, data, images_per_class):
        images, labels = to_arrays(data)
        found = LabelledImages(images, labels)
        value_range_of(images, self.input.range)
        if images_per_class is not None:
            found = found.take(_draw(labels, images_per_class))
        adapted = self._adapt(found, self.input.range)
        return self._label(adapted, class_names_of(data))

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
        return self._adapt(data.images_of(split), tuple(data.value_range))

    def _adapt(self, found, value_range):
        images = self._adapted(found.images, value_range)
        if images is found.images:
            return found
        return LabelledImages(images, found.labels)

    def _adapted(self, images, value_range):
        # Keras itself turns images of another data type into the model's.
        own = InputContract(images.shape[1:], self.input.dtype, value_range)
        if own == self.input:
            return images
        own = InputContract(own.shape, str(images.dtype), own.range)
        return adapt_images(images, plan_adaptation(own, self.input, self.size))

    def adapt_unlabelled(self, found: UnlabelledImages) -> np.ndarray:
        """Returns images without labels as the model takes them.

        Raises:
            ArtifactError: If they can not be adapted.
        """
        return self._adapted(found.images, tuple(found.value_range))

    def load_unlabelled(
        self, data: DataRef, data_dir: str | Path | None = None
    ) -> np.ndarray:
        """Loads the images that a spec names, whatever they show.

        Args:
            data: The data set and its split, or what was given for them.
            data_dir: Directory of the prepared data sets.

        Raises:
            ArtifactError: If they can not be loaded or adapted.
        """
        given = self.given.get(data)
        if given is not None:
            found = unlabelled_of(given, self.input.range)
        elif data.name == IN_MEMORY.name:
            raise not_given(data)
        else:
            options = file_options(data.name, self.input.shape, data_dir)
            found = load_unlabelled(
                data.name, data_dir, split=data.split, **options
            )
        return self.adapt_unlabelled(found)

    def first_images(self, data: ImageData, split: str) -> np.ndarray:
        """Returns a few images of a split, of the model's data type."""
        data = _keep(data, split, lambda labels, n: np.arange(n), NUM_COMPARED)
        return self.adapt(data, split).images.astype(self.input.dtype)

    def known_names(self, data_classes: Sequence[str]) -> dict[str, int]:
        """Returns the labels of names that images may have in a data set."""
        renamed = {
            name: index
            for name, index in self.renamed.items()
            if self.class_names[index] not in data_classes
        }
        names = {name: i for i, name in enumerate(self.class_names)}
        return {**renamed, **self.aliases, **names}

    def _label(self, images, data_classes):
        outside = -1 if self.other is None else self.other
        if data_classes is None:  # Then labels are those of the model.
            known = {i: i for i, _ in enumerate(self.class_names)}
            data_classes = range(max(images.labels.max() + 1, len(known)))
        else:
            known = self.known_names(data_classes)
        check_shown(images.labels, data_classes, known, self.class_names)
        indices = [known.get(name, outside) for name in data_classes]
        return _relabelled(images, indices)


def check_shown(
    labels: np.ndarray,
    data_classes: Sequence[Any],
    known: Collection[Any],
    class_names: Sequence[str],
) -> None:
    """Refuses images none of which shows a class of a model.

    Args:
        labels: int64 array `(n,)`, labels of the images.
        data_classes: Names of the data set's classes.
        known: Names that images of the model's classes may have.
        class_names: The model's classes.

    Raises:
        ArtifactError: If none has a name that is known.
    """
    shown = [data_classes[label] for label in np.unique(labels)]
    if not any(name in known for name in shown):
        raise ArtifactError(
            "Images must show classes of the model, of the same names. "
            f"Received: images of {shown} for a model of "
            f"{list(class_names)}. Take other images, or name the "
            "classes as the model does."
        )


def _relabelled(images, indices):
    """Labels images anew; those that get -1 are left out."""
    labels = np.array(indices)[images.labels]
    kept = np.flatnonzero(labels >= 0)
    if len(kept) == len(labels):
        return LabelledImages(images.images, labels)
    return LabelledImages(take(images.images, kept), labels[kept])


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


def reader_of_manifest(
    manifest: CompositionManifest, given: Mapping[DataRef, Any] | None = None
) -> ImageReader:
    """Returns what reads images for a composed model."""
    names = manifest.class_names
    other = None if manifest.other is None else names.index(manifest.other)
    aliases, renamed = _aliases(
        (names.index(source["class"]), source["module"])
        for source in manifest.sources
        if not source.get("auxiliary")
    )
    return ImageReader(
        manifest.input,
        manifest.size,
        names,
        other,
        aliases,
        renamed,
        given or {},
    )


def _aliases(modules):
    """Labels the names of modules that score one class and no other.

    Returns:
        Those of modules that share a class, and those of the others.
    """
    modules = list(modules)
    sizes = collections.Counter(index for index, _ in modules)
    owners = collections.defaultdict(set)
    for index, name in modules:
        owners[name].add(index)
    found = {}, {}
    for name, (index, *others) in owners.items():
        if not others:
            found[sizes[index] == 1][name] = index
    return found


def given_images(spec: Spec, data: Any) -> tuple[Spec, Mapping[DataRef, Any]]:
    """Finds out which data sets of a spec were given in Python.

    Args:
        spec: The spec.
        data: As `kmod.compose` takes it.

    Returns:
        Tuple of the spec, as if it named what was given, and what was given
        for each of its data sets.

    Raises:
        UsageError: If the spec needs no such data.
        ArtifactError: If it needs data that were not given.
    """
    given = {}
    if isinstance(data, Mapping):
        refs = {str(ref): ref for ref in _data_sets(spec)}
        unknown = [name for name in data if name not in refs]
        if unknown:
            raise UsageError(
                "`data` are given by the names of the spec's data sets. "
                f"Accepted: {list(refs)}. Received: {unknown}. Name them so "
                "in the spec's `scores` or `checks`."
            )
        given = {refs[name]: data[name] for name in data}
    elif data is not None:
        if spec.scores.calibration in ("stored", "none"):
            raise UsageError(
                "`data` calibrates the scores of a spec of `calibration: "
                "unlabelled`, `fit` or `joint`. Received: calibration "
                f"{spec.scores.calibration!r}. Write one of these, or give a "
                "mapping, such as {'pets:test': images}, for checks."
            )
        scores = dataclasses.replace(spec.scores, data=(IN_MEMORY,))
        spec = dataclasses.replace(spec, scores=scores)
        given = {IN_MEMORY: data}
    for ref in _data_sets(spec):
        if ref.name == IN_MEMORY.name and ref not in given:
            raise not_given(ref)
    return spec, given


def _data_sets(spec):
    checked = (check.data for check in spec.checks)
    return *spec.scores.data, *(data for data in checked if data is not None)


def not_given(data: DataRef) -> ArtifactError:
    """Returns the error of images that only Python can give."""
    return ArtifactError(
        f"The data set {IN_MEMORY.name!r} stands for images that are given in "
        f"Python. Received: '{data}' without them. Give them as "
        "`kmod.compose(spec, data=...)`, or write the name or path of a data "
        "set into the spec."
    )
