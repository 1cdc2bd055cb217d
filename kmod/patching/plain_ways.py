"""What a user would do in place of a patch, measured on the same images."""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import manifest_of_model
from kmod.composition.composition_manifest import total_sizes
from kmod.composition.plan import ALL_CLASSES
from kmod.composition.scoring import apply_layer
from kmod.composition.scoring import build_classifier
from kmod.composition.scoring import join
from kmod.composition.scoring import softmax
from kmod.data.streaming import predict
from kmod.files import slug
from kmod.graph.content import content_digest
from kmod.graph.sharing import merge_models
from kmod.graph.sizes import Sizes
from kmod.graph.sizes import model_sizes
from kmod.metrics.calibration import Layer
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import folds
from kmod.metrics.calibration import likeliest_penalty
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate_answers
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import adapt_model
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.patching.donors import Donor

BIASES = 201  # How many are tried.
MOST_WEIGHTS = 100_000  # Of a regression; larger ones take too long to compare.
WEAK, FEATURES = "weak", "features"
BOTH = "regression on both"


@dataclasses.dataclass(frozen=True, eq=False)
class PlainWay:
    """A model that a user could have without a patch.

    Attributes:
        name: What is done.
        model: The model, fitted on all validation images, images to
            `(batch, num_classes)` probabilities.
        evaluation: What it gets right on the validation images, each
            answered by a fit without it.
        num_labelled: How many labelled images it was fitted on.
        stores: The donors' stores whose modules answer in it.
    """

    name: str
    model: keras.Model
    evaluation: Evaluation
    num_labelled: int
    stores: tuple[ModuleStore, ...] = ()

    @property
    def key(self) -> str:
        """The name as an option of the command line takes it."""
        return slug(self.name)

    @property
    def sizes(self) -> Sizes:
        """Parameters, multiply-accumulates and kernels."""
        return model_sizes(self.model)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "name": self.name,
            "num_labelled": self.num_labelled,
            "parameters": self.sizes.parameters,
            "macs": self.sizes.macs,
            "validation": self.evaluation.as_dict(),
        }


def plain_ways(
    weak: keras.Model,
    donors: Mapping[Donor, Adaptation],
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    targets: Sequence[int],
) -> list[PlainWay]:
    """Tries what needs no patch, on the images that patches are judged on.

    - `weak model`: as it is.
    - `bias moved`: the biases of the target classes, to where the mean F1 of
      all classes is highest.
    - `last layer fitted again`: a multinomial logistic regression on what the
      weak model's last layer takes.
    - `regression on both`: one on the weak model's log-probabilities and the
      log-odds of all modules of the donors.
    - `donor instead`: the modules of a donor of all classes.

    Regressions take two images of each class, and are left out where they
    have more than `MOST_WEIGHTS` weights.

    Args:
        weak: The weak model up to its logits.
        donors: The donors, and how images become such as they take.
        images: Validation images `(n, height, width, channels)`.
        labels: int64 array `(n,)` of classes.
        class_names: The weak model's classes.
        targets: Indices of the classes that shall be better.

    Returns:
        The ways that there are, in this order.
    """
    image, outputs = merge_models(_parts(weak, donors).items())
    ways = _ways(outputs, donors, class_names, targets)
    read = {name: inputs for name, (inputs, _) in ways.items()}
    found = predict(keras.Model(image, read), images)
    made = []
    is_shown_twice = np.bincount(labels, minlength=len(class_names)).min() > 1
    for name, (inputs, fit) in ways.items():
        if fit is fit_scores:
            num_weights = found[name].shape[1] * len(class_names)
            if not is_shown_twice or num_weights > MOST_WEIGHTS:
                continue
            penalty = likeliest_penalty(found[name], labels)
            fit = functools.partial(fit_scores, penalty=penalty)
        answers = np.empty(len(labels), "int64")
        for fold in folds(labels):
            weights, bias = fit(found[name][~fold], labels[~fold])
            answers[fold] = np.argmax(found[name][fold] @ weights + bias, 1)
        layer = fit(found[name], labels)
        scores = apply_layer(inputs, layer, _scores_of(name))
        made.append(
            PlainWay(
                name,
                build_classifier(image, scores, slug(name)),
                evaluate_answers(labels, answers, class_names),
                0 if fit is _as_it_is else len(labels),
                _stores_of(name, donors),
            )
        )
    return made


def take_way(
    way: PlainWay, weak: keras.Model, name: str, contract: InputContract
) -> keras.Model:
    """Returns the model of a way as `kmod.save` takes it.

    Args:
        way: The way.
        weak: The weak model up to its logits.
        name: Name of the weak model.
        contract: What images it takes.
    """
    class_names = way.evaluation.class_names
    manifest = manifest_of_model(
        name, class_names, contract, content_digest(weak), total_sizes([weak])
    )
    takes_place = bool(way.stores) and way.name != BOTH
    modules = tuple(
        {
            **({} if takes_place else {"auxiliary": True}),
            "class": each if takes_place else ALL_CLASSES,
            "module": each,
            "store": store.digest,
            "source": store.manifest.source.digest,
            "model": store.manifest.source.name,
            "data": store.manifest.data.get("name"),
            "license": store.manifest.license,
            "retention_rate": store[each].info.retention_rate,
            "parameters": store[each].info.parameters,
            "macs": store[each].info.macs,
        }
        for store in way.stores
        for each in (class_names if takes_place else store)
    )
    model = way.model
    model.class_names = tuple(class_names)
    model.composition = Composition(
        dataclasses.replace(
            manifest,
            name=f"{name}-{way.key}",
            sources=modules if takes_place else manifest.sources + modules,
        )
    )
    return model


def evaluate_ways(
    ways: Sequence[PlainWay], images: np.ndarray, labels: np.ndarray
) -> list[Evaluation]:
    """Measures ways on other images, what they share run once.

    Args:
        ways: What `plain_ways` returned.
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


def _stores_of(name, donors):
    """Returns the stores whose modules answer in a way."""
    stores = [donor.store for donor in donors]
    if name == BOTH:
        return tuple(stores)
    return tuple(s for n, s in enumerate(stores) if name == _instead(n))


def _instead(number):
    return "donor instead" + (f" ({number + 1})" if number else "")


def _scores_of(name):
    return slug(f"{name} scores")


def _parts(weak, donors):
    """Lists the models that all ways are made of."""
    parts = {WEAK: weak}
    last = weak.layers[-1]
    is_last = last.output is weak.outputs[0]
    if is_last and isinstance(last, keras.layers.Dense):
        parts[FEATURES] = keras.Model(weak.input, last.input)
    for number, (donor, adaptation) in enumerate(donors.items()):
        for name in donor.store:
            parts[_part(number, name)] = adapt_model(
                log_odds_model(donor.store[name].model),
                adaptation,
                weak.inputs[0],
            )
    return parts


def _part(number, class_name):
    return f"donor{number}_{class_name}"


def _ways(outputs, donors, class_names, targets):
    """Returns what the layer of every way takes, and how it is fitted."""
    logits = outputs[WEAK]
    modules = [
        [outputs[_part(number, name)] for name in donor.store]
        for number, donor in enumerate(donors)
    ]
    log_probabilities = keras.ops.log(
        softmax(logits, "weak_probabilities") + 1e-7
    )
    both = join([log_probabilities, *sum(modules, [])], "both")
    ways = {
        "weak model": (logits, _as_it_is),
        "bias moved": (logits, _bias_mover(targets)),
    }
    if FEATURES in outputs:
        ways["last layer fitted again"] = outputs[FEATURES], fit_scores
    ways[BOTH] = both, fit_scores
    for number, donor in enumerate(donors):
        if set(class_names) <= set(donor.store):
            own = [outputs[_part(number, name)] for name in class_names]
            ways[_instead(number)] = (
                join(own, f"donor{number}_scores"),
                _as_it_is,
            )
    return ways


def _as_it_is(scores: np.ndarray, labels: np.ndarray) -> Layer:
    size = scores.shape[1]
    return np.eye(size, dtype="float32"), np.zeros(size, "float32")


def _bias_mover(
    targets: Sequence[int],
) -> Callable[[np.ndarray, np.ndarray], Layer]:
    """Returns a fit that moves the biases of the targets, one by one."""

    def fit(scores, labels):
        weights, bias = _as_it_is(scores, labels)
        for target in targets:
            moved = scores + bias
            others = np.delete(moved, target, axis=1).max(axis=1)
            tried = np.quantile(
                others - moved[:, target], np.linspace(0, 1, BIASES)
            )
            tried = np.append(tried, 0.0)
            worth = [
                _mean_f1(moved + b * (np.arange(len(bias)) == target), labels)
                for b in tried
            ]
            best = np.flatnonzero(np.equal(worth, max(worth)))
            bias[target] += tried[best[np.abs(tried[best]).argmin()]]
        return weights, bias

    return fit


def _mean_f1(scores, labels):
    answers, size = scores.argmax(axis=1), scores.shape[1]
    hits = np.bincount(labels[answers == labels], minlength=size)
    shown = np.bincount(labels, minlength=size)
    given = np.bincount(answers, minlength=size)
    return np.mean((2 * hits / np.maximum(shown + given, 1))[shown > 0])
