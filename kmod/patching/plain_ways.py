"""What a user would do in place of a patch, measured on the same images."""

import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence

import keras
import numpy as np

from kmod.composition.composition_manifest import fitting_name
from kmod.composition.composition_manifest import manifest_of_model
from kmod.composition.composition_manifest import total_sizes
from kmod.composition.plain_ways import Fit
from kmod.composition.plain_ways import PlainWay
from kmod.composition.plain_ways import PlannedWay
from kmod.composition.plain_ways import as_it_is
from kmod.composition.plain_ways import fit_ways
from kmod.composition.plain_ways import taken_model
from kmod.composition.plan import ALL_CLASSES
from kmod.composition.scoring import join
from kmod.composition.scoring import softmax
from kmod.files import slugs
from kmod.graph.content import content_digest
from kmod.graph.sharing import merge_models
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import adapt_model
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import InputContract
from kmod.patching.donors import Donor
from kmod.patching.way_names import BIAS_MOVED
from kmod.patching.way_names import BOTH
from kmod.patching.way_names import NEW_LAYER
from kmod.patching.way_names import WEAK_MODEL
from kmod.patching.way_names import donor_instead

BIASES = 201  # How many are tried.
WEAK, FEATURES = "weak", "features"


def plain_ways(
    weak: keras.Model,
    donors: Mapping[Donor, Adaptation],
    best: Collection[Donor],
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
      log-odds of all modules of the best donors.
    - `donor instead`: the modules of a donor of all classes, also one that is
      not among the best.

    Args:
        weak: The weak model up to its logits.
        donors: All donors, and how images become such as they take.
        best: The donors whose patches do best.
        images: Validation images `(n, height, width, channels)`.
        labels: int64 array `(n,)` of classes.
        class_names: The weak model's classes.
        targets: Indices of the classes that shall be better.

    Returns:
        The ways that there are, in this order; see `fit_ways`.
    """
    used = {
        donor: number
        for number, donor in enumerate(donors)
        if donor in best or _knows(donor, class_names)
    }
    parts = _parts(weak, {used[d]: (d, donors[d]) for d in used})
    image, outputs = merge_models(parts.items())
    planned = _planned(outputs, used, best, class_names, targets)
    alternatives = {name: [way] for name, way in planned.items()}
    return fit_ways(image, alternatives, images, labels, class_names)


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
    manifest = manifest_of_model(
        name,
        way.evaluation.class_names,
        contract,
        content_digest(weak),
        total_sizes([weak]),
    )
    manifest = dataclasses.replace(
        manifest, name=fitting_name(name, f"-{way.key}")
    )
    # Modules that answer for a class do so in the weak model's place.
    if any(class_name != ALL_CLASSES for class_name, _, _ in way.modules):
        manifest = dataclasses.replace(manifest, sources=())
    return taken_model(way, manifest)


def _knows(donor, class_names):
    return set(class_names) <= set(donor.store)


def _parts(weak, donors):
    """Lists the models that all ways are made of."""
    parts = {WEAK: weak}
    last = weak.layers[-1]
    is_last = last.output is weak.outputs[0]
    if is_last and isinstance(last, keras.layers.Dense):
        parts[FEATURES] = keras.Model(weak.input, last.input)
    for number, (donor, adaptation) in donors.items():
        for name, part in _part_names(number, donor).items():
            parts[part] = adapt_model(
                log_odds_model(donor.store[name].model),
                adaptation,
                weak.inputs[0],
            )
    return parts


def _part_names(number, donor):
    """Names a donor's modules, by class; layers' names take ASCII only."""
    own = slugs(donor.store).items()
    return {name: f"donor{number}_{part}" for name, part in own}


def _planned(outputs, numbers, best, class_names, targets):
    """Returns what the layer of every way takes, and how it is fitted."""
    logits = outputs[WEAK]
    modules = {
        donor: {
            name: outputs[part]
            for name, part in _part_names(number, donor).items()
        }
        for donor, number in numbers.items()
    }
    log_probabilities = keras.ops.log(
        softmax(logits, "weak_probabilities") + 1e-7
    )
    others = [tensor for donor in best for tensor in modules[donor].values()]
    both = join([log_probabilities, *others], "both")
    planned = {
        WEAK_MODEL: PlannedWay(logits, as_it_is, takes_labels=False),
        BIAS_MOVED: PlannedWay(logits, _bias_mover(targets)),
    }
    if FEATURES in outputs:
        planned[NEW_LAYER] = PlannedWay(outputs[FEATURES])
    every = [
        (ALL_CLASSES, donor.store, name)
        for donor in best
        for name in donor.store
    ]
    planned[BOTH] = PlannedWay(both, modules=every)
    for donor, number in numbers.items():
        if _knows(donor, class_names):
            own = [modules[donor][name] for name in class_names]
            planned[donor_instead(number)] = PlannedWay(
                join(own, f"donor{number}_scores"),
                as_it_is,
                [(name, donor.store, name) for name in class_names],
                takes_labels=False,
            )
    return planned


def _bias_mover(targets: Sequence[int]) -> Fit:
    """Returns a fit that moves the biases of the targets, one by one."""

    def fit(scores, labels):
        weights, bias = as_it_is(scores, labels)
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
