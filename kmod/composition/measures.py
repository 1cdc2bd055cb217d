"""Measures what checks ask for, of composed models and of modules in stores.

Both classes have a method of each metric of a check but the qualities, which
have `quality`. Each returns what was measured and on how many images.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.contract import SPEC_FILE
from kmod.composition.labelled_images import ImageReader
from kmod.composition.scoring import join
from kmod.data.image_data import LabelledImages
from kmod.data.streaming import predict
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.export.keras_file import load_keras_file
from kmod.export.savedmodel import PROBABILITIES_LAYER
from kmod.files import slugs
from kmod.files.remote import is_url
from kmod.graph import channel_graph
from kmod.graph.content import content_digest
from kmod.graph.fusion.fuse import fuse
from kmod.graph.rebuild import rebuild
from kmod.graph.sharing import merge_models
from kmod.metrics.chance import answered_classes
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate
from kmod.metrics.latency import latency_ratio
from kmod.modules.adaptation import comparison_images
from kmod.modules.contract import changed_share
from kmod.modules.contract import largest_difference
from kmod.modules.contract import path_from
from kmod.modules.contract import some
from kmod.modules.cut import log_odds_model
from kmod.modules.decompose import module_metrics
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import load_store
from kmod.spec.model import Check
from kmod.spec.model import DataRef
from kmod.spec.spec_file import load_spec

# Numbers of answers that a manifest keeps at most.
MOST_ANSWERS = 8000

Measured = tuple[float, int]


class _Subject:
    """What is measured, whatever it is."""

    def __init__(self, contract, reader, data_dir, sources):
        self._input: InputContract = contract
        self._reader: ImageReader = reader
        self._data_dir = data_dir
        self._sources: Sequence[Path] = sources
        self._kept = {}

    def _once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        """Keeps what takes long for further checks."""
        if key not in self._kept:
            self._kept[key] = measure()
        return self._kept[key]

    def _images(self, data: DataRef) -> LabelledImages:
        load = functools.partial(self._reader.load, data, self._data_dir)
        return self._once(("images", data), load)

    def _digits(self):
        return self._once(
            "digits", functools.partial(comparison_images, self._input)
        )

    def _images_of(self, check: Check):
        """Some images of a check, a few digits if it names none."""
        if check.data is None:
            return self._digits()
        return some(self._images(check.data)).images

    def _ratio(self, model, digests, known):
        """Divides the latency of a model by that of its sources."""
        found = [_load_source(path, self._input) for path in self._sources]
        for path, (_, digest) in zip(self._sources, found):
            if digest not in digests:
                raise UsageError(
                    "`sources` must be the models that the modules were cut "
                    f"from, {sorted(digests)}. Received: '{path}' with the "
                    f"digest {digest}. Give another file."
                )
        if not found:
            found = [
                each
                for each in (_load_source(p, self._input) for p in known)
                if each[1] in digests
            ]
        if {digest for _, digest in found} != digests:
            raise ArtifactError(
                "Latency is compared with that of the source models. "
                f"Received: the files of {len(found)} of {len(digests)}. Give "
                "them as `--source FILE`."
            )
        return latency_ratio(model, [source for source, _ in found]), 1


def _load_source(path, contract):
    """Returns a source model and its digest; none if it is not there."""
    if not path.is_file():
        return None, None
    model = load_keras_file(path, allow_custom=True)
    whole = rebuild(channel_graph(model, input_shape=contract.shape))
    whole.trainable = False  # As it was when its modules were cut.
    return model, content_digest(whole)


class ComposedModel(_Subject):
    """A composed model.

    Args:
        model: The model.
        manifest: What is known of it.
        reader: What reads images for it.
        data_dir: Directory of the prepared data sets.
        path: Its directory, if it was saved.
        sources: Files of its source models, for latency.
    """

    def __init__(
        self,
        model: keras.Model,
        manifest: CompositionManifest,
        reader: ImageReader,
        data_dir: str | Path | None = None,
        path: Path | None = None,
        sources: Sequence[Path] = (),
    ):
        super().__init__(manifest.input, reader, data_dir, sources)
        self._model = model
        self._manifest = manifest
        self._path = path

    def _evaluation(self, data) -> Evaluation:
        names = self._manifest.class_names
        return self._once(
            ("evaluation", data),
            lambda: evaluate(self._model, self._images(data), names),
        )

    def _answer(self, images):
        scores = predict(self._model, images)
        if scores.shape[1] == 1:
            return (scores[:, 0] > 0.5).astype(int)
        return answered_classes(scores, "the composed model")

    def quality(self, check: Check) -> Measured:
        """Accuracy, or a figure of a class."""
        found = self._evaluation(check.data)
        num_images = int(found.support.sum())
        if check.class_name is None:
            return found.accuracy, num_images
        index = found.class_names.index(check.class_name)
        if not found.support[index]:
            raise ArtifactError(
                "A check of a class needs images of it. Received: no image of "
                f"{check.class_name!r} in data set {check.data.name!r}. Name "
                "a data set that shows the class, by this name."
            )
        metric = "recall" if check.metric == "accuracy" else check.metric
        return float(getattr(found, metric)[index]), num_images

    def invariance(self, check: Check) -> Measured:
        """Share of answers that change if images do."""
        found = self._images(check.data)
        if check.class_name is not None:
            index = self._manifest.class_names.index(check.class_name)
            found = found.take(np.flatnonzero(found.labels == index))
        found = some(found)
        share = changed_share(
            self._answer, found.images, check.shift, check.flip
        )
        return share, len(found)

    def score_range(self, check: Check) -> tuple[tuple[float, float], int]:
        """The lowest and the highest score."""
        images = self._images_of(check)
        scores = predict(self._model, images)
        if check.class_name is not None:
            scores = scores[:, self._column(check)]
        return _range(scores), len(images)

    def exactness(self, check: Check) -> Measured:
        """Difference from the answers that were stored."""
        stored = np.array(self._manifest.contract.get("answers", ()))
        if not len(stored):
            raise _no_answers()
        images = self._digits()[: len(stored)]
        answers = unsquashed_answers(self._model, images)
        if check.class_name is not None:
            column = self._column(check)
            answers, stored = answers[:, column], stored[:, column]
        return largest_difference(answers, stored), len(images)

    def _column(self, check):
        return self._manifest.class_names.index(check.class_name)

    def rejection(self, check: Check) -> Measured:
        """Share of images of the classes that get the class of others."""
        if self._manifest.other is None:
            raise UsageError(
                "Only a model with a class for images of none of the others "
                "rejects any. Received: a check of rejection for a model of "
                f"{list(self._manifest.class_names)}. Remove it, or write "
                "`scores.other` into the spec."
            )
        index = self._manifest.class_names.index(self._manifest.other)
        found = self._evaluation(check.data)
        own = np.delete(found.confusion, index, axis=0)
        return float(own[:, index].sum() / own.sum()), int(own.sum())

    def latency(self, check: Check) -> Measured:
        """Time of an answer, as a multiple of its sources' together."""
        if check.class_name is not None:
            raise UsageError(
                "A check of latency of one class is of a module in a store. "
                f"Received: one of {check.class_name!r} for a composed model. "
                "Leave `class` out."
            )
        spec = self._path / SPEC_FILE
        spec = load_spec(spec) if spec.is_file() else None
        if spec is not None and spec.base is not None:
            weak = load_keras_file(spec.base.path, allow_custom=True)
            return latency_ratio(self._model, [weak]), 1
        digests = {source["source"] for source in self._manifest.sources}
        return self._ratio(self._model, digests, _known_sources(spec))


def _known_sources(spec):
    """Yields where the stores of a spec say that their sources are."""
    for ref in spec.stores.values() if spec is not None else ():
        if is_url(ref.path):
            continue  # Its source is not there.
        # A store that is not as it was is no fault of the composed model.
        with contextlib.suppress(ArtifactError):
            contract = load_store(ref.path, verify=False).manifest.contract
            if path := path_from(ref.path, contract):
                yield path


def unsquashed_answers(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns what a classifier answers in front of its softmax, if it has one.

    Probabilities near 0 and 1 hardly show when weights change.

    Args:
        model: Functional model of one output.
        images: Array `(n, height, width, channels)`.

    Returns:
        Float array `(n, num_classes)`.
    """
    last = model.layers[-1]
    is_squashed = last.name == PROBABILITIES_LAYER and isinstance(
        last, keras.layers.Softmax
    )
    if is_squashed:
        model = keras.Model(model.input, last.input)
    return predict(model, images)


def stored_answers(model: keras.Model, images: np.ndarray) -> list[list[float]]:
    """Returns answers for a manifest, fewer of a model of very many classes.

    Args:
        model: The model.
        images: What `comparison_images` gives.
    """
    count = max(1, MOST_ANSWERS // model.output_shape[-1])
    return unsquashed_answers(model, images[:count]).tolist()


class Modules(_Subject):
    """The modules of a store.

    A check of a class is of its module alone, which answers whether an image
    shows it. One of no class is of all modules: the highest score wins.

    Args:
        store: The store.
        reader: What reads images for it.
        data_dir: Directory of the prepared data sets.
        sources: File of the source model, for latency.
    """

    def __init__(
        self,
        store: ModuleStore,
        reader: ImageReader,
        data_dir: str | Path | None = None,
        sources: Sequence[Path] = (),
    ):
        super().__init__(store.manifest.input, reader, data_dir, sources)
        self._store = store

    def _module_log_odds(self, name, images):
        model = log_odds_model(self._store[name].model)
        return predict(model, images)[:, 0]

    def _own_log_odds(self, name, data):
        return self._once(
            (name, data),
            lambda: self._module_log_odds(name, self._images(data).images),
        )

    def _log_odds(self, data):
        columns = [self._own_log_odds(name, data) for name in self._store]
        return np.stack(columns, axis=1)

    def _answer(self, check: Check) -> Callable[[np.ndarray], np.ndarray]:
        names = [check.class_name] if check.class_name else list(self._store)

        def answer(images):
            columns = [self._module_log_odds(name, images) for name in names]
            scores = np.stack(columns, axis=1)
            if len(names) == 1:
                return scores[:, 0] > 0
            return answered_classes(scores, "the modules")

        return answer

    def quality(self, check: Check) -> Measured:
        """Accuracy, or a figure of a module."""
        names, labels = (
            self._store.manifest.class_names,
            self._images(check.data).labels,
        )
        if check.class_name is None:
            indices = np.array([names.index(name) for name in self._store])
            answers = indices[self._log_odds(check.data).argmax(axis=1)]
            return float(np.mean(answers == labels)), len(labels)
        is_class = labels == names.index(check.class_name)
        log_odds = self._own_log_odds(check.class_name, check.data)
        if check.metric == "accuracy":
            return float(np.mean((log_odds > 0) == is_class)), len(labels)
        found = module_metrics(log_odds, is_class)
        if not found:
            raise ArtifactError(
                "A check of a module needs images of its class. Received: no "
                f"image of {check.class_name!r} in data set "
                f"{check.data.name!r}. Name a data set that shows it."
            )
        return found[check.metric], len(labels)

    def invariance(self, check: Check) -> Measured:
        """Share of answers that change if images do."""
        found = some(self._images(check.data))
        share = changed_share(
            self._answer(check), found.images, check.shift, check.flip
        )
        return share, len(found)

    def score_range(self, check: Check) -> tuple[tuple[float, float], int]:
        """The lowest and the highest probability."""
        images = self._images_of(check)
        names = [check.class_name] if check.class_name else list(self._store)
        scores = [predict(self._store[name].model, images) for name in names]
        return _range(np.concatenate(scores)), len(images)

    def exactness(self, check: Check) -> Measured:
        """Difference of a module's log-odds from those that were stored."""
        module = self._store[check.class_name]
        stored = np.array(module.info.answers)
        if not len(stored):
            raise _no_answers()
        images = self._digits()[: len(stored)]
        answers = self._module_log_odds(check.class_name, images)
        return largest_difference(answers, stored), len(images)

    def rejection(self, check: Check) -> Measured:
        """Share of images that are less familiar than `max` allows."""
        familiarity = self._store.familiarity
        if familiarity is None:
            raise ArtifactError(
                "A store rejects images by its familiarity. Received: "
                f"'{self._store.path}' without one. Add it with `kmod "
                "familiarity`."
            )
        images = self._images(check.data).images
        distances = familiarity.distance_of(images, self._input)
        limit = familiarity.threshold(check.max)
        return float(np.mean(distances > limit)), len(images)

    def latency(self, check: Check) -> Measured:
        """Time of all modules, or one, as a multiple of the source's."""
        manifest = self._store.manifest
        if check.class_name is not None:
            model = self._store[check.class_name].model
        else:
            model = side_by_side({n: self._store[n].model for n in self._store})
        known = path_from(self._store.path, manifest.contract)
        known = [] if known is None else [known]
        return self._ratio(model, {manifest.source.digest}, known)

    def recorded_metrics(self, class_name: str) -> dict[str, float]:
        """Measures what the manifest of a module has figures of."""
        manifest = self._store.manifest
        recorded, name = manifest.data, manifest.data["name"]
        if "path" in recorded:
            name = (self._store.path / recorded["path"]).resolve()
        data = DataRef(name, recorded["split"])
        index = manifest.class_names.index(class_name)
        is_class = self._images(data).labels == index
        return module_metrics(self._own_log_odds(class_name, data), is_class)


def side_by_side(modules: Mapping[str, keras.Model]) -> keras.Model:
    """Builds modules as one model, as fast as a composition of them.

    Args:
        modules: Models of modules by class name.

    Returns:
        Functional model, images to probabilities `(batch, num_modules)`.
    """
    names = slugs(modules)
    image, outputs = merge_models(
        (names[name], model) for name, model in modules.items()
    )
    return fuse(keras.Model(image, join(list(outputs.values()), "scores")))


def _range(scores):
    # A NaN is neither above nor below any limit.
    return float(np.min(scores)), float(np.max(scores))


def _no_answers():
    return ArtifactError(
        "Exactness is the difference from answers that were stored. Received: "
        "an artifact that holds none, since it was written before there were "
        "any. Make it again."
    )
