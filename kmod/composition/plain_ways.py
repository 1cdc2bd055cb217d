"""Models that a user could have without kmod, measured on the same images.

What there is in place of a patch or of a choice is listed there; here it is
fitted, measured and made what `kmod.save` takes.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.plan import ALL_CLASSES
from kmod.composition.scoring import apply_layer
from kmod.composition.scoring import build_classifier
from kmod.data.streaming import predict
from kmod.files import slug
from kmod.graph.fusion.fuse import fuse
from kmod.graph.sizes import Sizes
from kmod.graph.sizes import model_sizes
from kmod.metrics.calibration import Layer
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import folds
from kmod.metrics.calibration import likeliest_penalty
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate_answers
from kmod.modules.module_store import ModuleStore

MOST_WEIGHTS = 100_000  # Of a regression; larger ones take too long to compare.

Fit = Callable[[np.ndarray, np.ndarray], Layer]
# A module in a way: the class that it answers for, its store, its class there.
Part = tuple[str, ModuleStore, str]


@dataclasses.dataclass(frozen=True, eq=False)
class PlainWay:
    """A model that a user could have without a patch or a composition.

    Attributes:
        name: What is done.
        model: The model, fitted on all labelled images, images to
            `(batch, num_classes)` probabilities.
        evaluation: What it gets right on these images, each answered by a fit
            without it.
        num_labelled: How many labelled images it takes.
        modules: The modules in it: the class that each answers for, `"*"` if
            it only helps, its store, and its class there.
    """

    name: str
    model: keras.Model
    evaluation: Evaluation
    num_labelled: int
    modules: tuple[tuple[str, ModuleStore, str], ...] = ()

    @property
    def key(self) -> str:
        """The name as an option of the command line takes it."""
        return slug(self.name)

    @property
    def stores(self) -> tuple[ModuleStore, ...]:
        """The stores whose modules are in it."""
        return tuple(dict.fromkeys(store for _, store, _ in self.modules))

    @functools.cached_property
    def sizes(self) -> Sizes:
        """Parameters, multiply-accumulates and kernels."""
        return model_sizes(self.model)

    @functools.cached_property
    def laid_out(self) -> keras.Model:
        """The model as it is saved: laid out to run fast, see `fuse`."""
        return fuse(self.model)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "name": self.name,
            "key": self.key,
            "stores": [store.place for store in self.stores],
            "num_labelled": self.num_labelled,
            "parameters": self.sizes.parameters,
            "macs": self.sizes.macs,
            "validation": self.evaluation.as_dict(),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedWay:
    """What the last layer of a way takes, and how it is fitted.

    Attributes:
        inputs: Tensor `(batch, num_inputs)`.
        fit: Fits the layer on arrays of inputs and labels. Defaults to a
            multinomial logistic regression of the likeliest penalty.
        modules: As `PlainWay` has them.
        evaluation: What it gets right, where that is known already.
        takes_labels: Whether labelled images count in it.
    """

    inputs: keras.KerasTensor
    fit: Fit = fit_scores
    modules: Iterable[Part] = ()
    evaluation: Evaluation | None = None
    takes_labels: bool = True


def fit_ways(
    image: keras.KerasTensor,
    planned: Mapping[str, Sequence[PlannedWay]],
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> list[PlainWay]:
    """Fits ways on labelled images and measures what they get right.

    Every image is answered by a fit without it, in the folds that patches and
    choices are judged by; all that ways share runs once. Regressions take two
    images of each class, and are left out where they have more than
    `MOST_WEIGHTS` weights.

    Args:
        image: The input of all ways.
        planned: By name the alternatives, of which the one counts that gets
            most right.
        images: Labelled images `(n, height, width, channels)`.
        labels: int64 array `(n,)` of classes.
        class_names: Names of the classes.

    Returns:
        The ways that there are, in this order.
    """
    size = len(class_names)
    is_shown_twice = np.bincount(labels, minlength=size).min() > 1
    alternatives = {
        (name, str(number)): each
        for name, own in planned.items()
        for number, each in enumerate(own)
        if each.fit is not fit_scores
        or (is_shown_twice and each.inputs.shape[1] * size <= MOST_WEIGHTS)
    }
    if not alternatives:
        return []
    inputs = {" ".join(key): way.inputs for key, way in alternatives.items()}
    found = predict(keras.Model(image, inputs), images)
    made = {}
    for (name, number), way in alternatives.items():
        scores, fit = found[f"{name} {number}"], way.fit
        if fit is fit_scores:
            penalty = likeliest_penalty(scores, labels)
            fit = functools.partial(fit_scores, penalty=penalty)
        evaluation = way.evaluation
        if evaluation is None:
            answers = cross_fitted_answers(scores, labels, fit)
            evaluation = evaluate_answers(labels, answers, class_names)
        best = made.get(name)
        if best is None or evaluation.accuracy > best.evaluation.accuracy:
            layer = fit(scores, labels)
            made[name] = PlainWay(
                name,
                build_way(image, way.inputs, layer, name),
                evaluation,
                len(labels) if way.takes_labels else 0,
                tuple(way.modules),
            )
    return list(made.values())


def cross_fitted_answers(
    inputs: np.ndarray, labels: np.ndarray, fit: Fit
) -> np.ndarray:
    """Returns classes, each by a layer that was fitted without its image.

    Args:
        inputs: Float array `(n, num_inputs)`.
        labels: int64 array `(n,)` of classes.
        fit: Fits the layer.
    """
    answers = np.empty(len(labels), "int64")
    for fold in folds(labels):
        weights, bias = fit(inputs[~fold], labels[~fold])
        answers[fold] = np.argmax(inputs[fold] @ weights + bias, axis=1)
    return answers


def build_way(
    image: keras.KerasTensor,
    inputs: keras.KerasTensor,
    layer: Layer,
    name: str,
) -> keras.Model:
    """Builds the model of a way from its last layer."""
    scores = apply_layer(inputs, layer, _scores_of(name))
    return build_classifier(image, scores, slug(name))


def as_it_is(scores: np.ndarray, labels: np.ndarray) -> Layer:
    """Fits nothing: the highest score wins."""
    size = scores.shape[1]
    return np.eye(size, dtype="float32"), np.zeros(size, "float32")


def evaluate_ways(
    ways: Sequence[PlainWay], images: np.ndarray, labels: np.ndarray
) -> list[Evaluation]:
    """Measures ways on other images, what they share run once.

    Args:
        ways: What `fit_ways` returned.
        images: Array `(n, height, width, channels)`.
        labels: int64 array `(n,)` of classes.
    """
    outputs = {
        way.name: way.model.get_layer(_scores_of(way.name)).output
        for way in ways
    }
    found = predict(keras.Model(ways[0].model.input, outputs), images)
    return [
        evaluate_answers(
            labels, found[way.name].argmax(axis=1), way.evaluation.class_names
        )
        for way in ways
    ]


def taken_model(way: PlainWay, manifest: CompositionManifest) -> keras.Model:
    """Returns the model of a way as `kmod.save` takes it.

    Args:
        way: The way.
        manifest: What else is known of the model; the sources that it has,
            the modules are added to.
    """
    model = way.laid_out
    model.class_names = tuple(way.evaluation.class_names)
    sources = manifest.sources + tuple(map(_source, way.modules))
    model.composition = Composition(
        dataclasses.replace(manifest, sources=sources)
    )
    return model


def _source(module: Part) -> dict[str, Any]:
    class_name, store, name = module
    info = store.info(name)
    return {
        **({"auxiliary": True} if class_name == ALL_CLASSES else {}),
        "class": class_name,
        "module": name,
        "store": store.digest,
        "source": store.manifest.source.digest,
        "model": store.manifest.source.name,
        "data": store.manifest.data.get("name"),
        "license": store.manifest.license,
        "retention_rate": info.retention_rate,
        "parameters": info.parameters,
        "macs": info.macs,
    }


def _scores_of(name):
    return slug(f"{name} scores")
