"""Builds one classifier from the modules that a spec names."""

import collections
import dataclasses
import functools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.composition.checks import run_checks
from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import manifest_of
from kmod.composition.composition_manifest import total_sizes
from kmod.composition.composition_manifest import with_fit
from kmod.composition.labelled_images import given_images
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.patched_model import Patch
from kmod.composition.patched_model import merge_patched
from kmod.composition.patched_model import patch_parts
from kmod.composition.plan import CompositionPlan
from kmod.composition.plan import plan
from kmod.composition.routing import Evidence
from kmod.composition.routing import add_evidence
from kmod.composition.routing import add_unfamiliarity
from kmod.composition.routing import group_worlds
from kmod.composition.routing import route
from kmod.composition.scoring import LOG_ODDS_LAYER
from kmod.composition.scoring import add_other
from kmod.composition.scoring import apply_layer
from kmod.composition.scoring import apply_lines
from kmod.composition.scoring import build_classifier
from kmod.composition.scoring import fit_joint
from kmod.composition.scoring import fit_lines
from kmod.composition.scoring import join
from kmod.composition.scoring import line
from kmod.composition.scoring import score_classes
from kmod.composition.scoring import softmax
from kmod.data.disk_arrays import concatenate
from kmod.data.image_data import LabelledImages
from kmod.data.streaming import predict
from kmod.errors import ArtifactError
from kmod.export.keras_file import load_keras_file
from kmod.files import file_digest
from kmod.files import slugs
from kmod.files.custom_layers import custom_layers_scope
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.fusion.fuse import fuse
from kmod.graph.sharing import merge_models
from kmod.graph.sources import functional_of
from kmod.metrics.calibration import shares_without_labels
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import adapt_model
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.image_statistics import statistics_model
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.spec.model import DataRef
from kmod.spec.model import Spec
from kmod.spec.spec_file import load_spec

STATISTICS = "image__statistics"  # No class's modules are named so.
LEAST_UNLABELLED = 10  # Images for each class.
# Unlabelled images that may be less familiar than all but 5 % of the own ones.
OWN_REJECTED, MOST_UNFAMILIAR = 0.05, 0.3


def compose(
    spec: str | Path | Spec,
    data_dir: str | Path | None = None,
    *,
    data: Any = None,
    custom_layers: Sequence[type] = (),
) -> keras.Model:
    """Builds the model that a composition spec declares, and checks it.

    Layers that the modules have in common are built once, and what is left is
    laid out to run fast; see `fuse`. The layer `log_odds` holds the scores in
    front of the softmax.

    Args:
        spec: The spec, or the path of its YAML file.
        data_dir: Directory of the prepared data sets that the spec's checks
            and calibration name.
        data: Images to calibrate on, in place of those that `scores.data`
            names, labelled unless for `calibration: unlabelled`: `(images,
            labels)`, `LabelledImages`, a batched data set, or the validation
            images of an `ImageData`. Labels are indices of the spec's
            classes, unless the data have class names. For checks as well, a
            mapping of data sets as the spec names them, such as
            `"pets:test"`, to such images.
        custom_layers: Registered layer classes of your own that modules may
            hold.

    Returns:
        Functional model of built-in layers, images to `(batch, num_classes)`
        in the spec's order of classes; of equal answers the first one counts.
        Save it with `kmod.save`, which keeps its attribute `class_names` and
        what it was made from, its attribute `composition`.

    Raises:
        SpecError: If the spec is not valid.
        ArtifactError: If what it names is missing or does not fit together.
        IntegrityError: If a store or module is not as it was written.
        CheckError: If one of the spec's checks fails.
        UsageError: If `data` are not what the spec needs.
        ValueError: If labels of `data` are no class indices.

    Example:

    >>> model = kmod.compose("specs/compose_digits.yaml")
    >>> model.predict(images).argmax(axis=-1)
    """
    if not isinstance(spec, Spec):
        spec = load_spec(spec)
    with custom_layers_scope(custom_layers):
        return compose_plan(plan(spec), data_dir, data)


def compose_plan(
    planned: CompositionPlan,
    data_dir: str | Path | None = None,
    data: Any = None,
) -> keras.Model:
    """Builds the model of a plan and checks it; see `compose`."""
    spec, given = given_images(planned.spec, data)
    planned = dataclasses.replace(planned, spec=spec)
    manifest = manifest_of(planned)
    images = None
    if spec.scores.is_fitted:
        images = images_to_fit_on(planned, data_dir, given)
        manifest = with_fit(manifest, images.labels)
    elif spec.scores.calibration == "unlabelled":
        images = _unlabelled_images(planned, data_dir, given)
    base = spec.base and file_digest(spec.base.path)
    unshared = collections.Counter()
    parts = tallied(build_parts(planned), unshared)
    if spec.base is not None:
        model = merge_patched(parts, _patches(planned), spec.name)
    else:
        model, found = _merge_classes(planned, parts, images)
        manifest = dataclasses.replace(
            manifest, calibration={**manifest.calibration, **found}
        )
    model = fuse(model)
    model.class_names = spec.class_names
    checks = run_checks(model, planned, data_dir, given)
    manifest = dataclasses.replace(
        manifest,
        metrics={"checks": [c.as_dict() for c in checks]} if checks else {},
        unshared=dict(unshared) or None,
    )
    model.composition = Composition(
        manifest,
        _without_modules(planned),
        base,
    )
    return model


def _without_modules(planned):
    """Opens the stores anew, so that a model does not keep their modules."""
    stores = {
        name: ModuleStore(store.path, store.manifest)
        for name, store in planned.stores.items()
    }
    return dataclasses.replace(planned, stores=stores)


def build_parts(
    planned: CompositionPlan,
) -> Iterator[tuple[str, keras.Model]]:
    """Builds the parts of a composed model one by one, nothing shared yet.

    Args:
        planned: The plan.

    Yields:
        Pairs for `merge_models` of a name and a functional model on images of
        `planned.input`: the scores of the modules, and of a patch spec the
        weak model's logits as well.
    """
    if planned.spec.base is not None:
        parts = patch_parts(_load_weak(planned), _patches(planned))
        yield from parts.items()
        return
    image = keras.Input(planned.input.shape, dtype=planned.input.dtype)
    names = [name for names in _names_by_class(planned) for name in names]
    names += _auxiliary_names(planned)
    for name, module in zip(names, planned.modules, strict=True):
        scorer = _scorer(planned, module)
        adaptation = planned.adaptations[module.ref.store]
        yield name, adapt_model(scorer, adaptation, image)
    if _needs_statistics(planned):
        contract, adaptation = measured_images(planned)
        model = statistics_model(contract)
        yield STATISTICS, adapt_model(model, adaptation, image)


def tallied(
    parts: Iterable[tuple[str, keras.Model]], totals: collections.Counter
) -> Iterator[tuple[str, keras.Model]]:
    """Passes parts on and adds up their sizes, where images have a size.

    Args:
        parts: What `build_parts` yields.
        totals: Counter of `parameters` and `macs`. It is changed.
    """
    for name, part in parts:
        if None not in part.input_shape[1:]:
            totals.update(total_sizes([part]))
        yield name, part


def _names_by_class(planned):
    """Names the modules of every class of a spec with `classes`."""
    prefixes = slugs(entry.name for entry in planned.classes)
    return [
        (
            [prefixes[entry.name]]
            if len(entry.modules) == 1
            else [
                f"{prefixes[entry.name]}_{number}"
                for number in range(1, len(entry.modules) + 1)
            ]
        )
        for entry in planned.classes
    ]


def _auxiliary_names(planned):
    """Names the auxiliary modules, unlike those of any class."""
    return [f"auxiliary__{number}" for number in range(len(planned.auxiliary))]


def _scorer(planned, module):
    """Returns a module up to the score that is compared with others."""
    store = planned.stores[module.ref.store]
    model = store.read(module.ref.class_name).model
    layer = model.get_layer(CALIBRATION_LAYER)
    is_raw = planned.spec.scores.calibration == "none"
    return keras.Model(model.input, layer.input if is_raw else layer.output)


def _load(planned, module):
    return planned.stores[module.ref.store][module.ref.class_name]


def _patches(planned):
    """Returns the patches of a patch spec with their modules loaded."""
    spec = planned.spec
    return [
        Patch(
            spec.base.classes.index(entry.class_name),
            _load(planned, planned_class.modules[0]),
            entry.combine,
            tuple(_load(planned, each) for each in planned_class.modules[1:]),
            (
                tuple(map(spec.base.classes.index, entry.auxiliary))
                if entry.combine == "divided"
                else ()
            ),
            entry.layer,
            entry.range,
            planned.adaptations[entry.module.store],
            entry.weak_share,
        )
        for entry, planned_class in zip(spec.patches, planned.classes)
    ]


def _load_weak(planned):
    """Loads the weak model of a patch spec, up to its logits."""
    base = planned.spec.base
    weak = load_keras_file(base.path, allow_custom=True)
    own_shape = tuple(functional_of(weak, base.output).inputs[0].shape[1:])
    wanted = planned.input.shape
    if len(own_shape) != len(wanted) or any(
        own not in (None, size) for own, size in zip(own_shape, wanted)
    ):
        raise ArtifactError(
            f"The weak model must take images of {wanted}, as "
            "the plan says. Received: images of "
            f"{own_shape} from '{base.path}'. Write its "
            "own images as `input` into the spec; the modules get adapters. "
            "In front of a model that takes no (height, width, channels), put "
            "`keras.layers.Reshape`."
        )
    logits = rebuild(channel_graph(weak, base.output, planned.input.shape))
    if logits.output_shape != (None, len(base.classes)):
        raise ArtifactError(
            f"The spec names {len(base.classes)} classes of its base, so "
            "that must answer as many scores. Received: an output of shape "
            f"{logits.output_shape} from '{base.path}'. Correct "
            "`base.classes`."
        )
    return logits


def _merge_classes(planned, parts, images):
    """Returns the model, and what its manifest says of its calibration."""
    image, outputs = merge_models(parts)
    scores, found = planned.spec.scores, {}
    unfamiliarity = _unfamiliarity(planned, outputs)
    is_last = scores.other is None and scores.calibration in ("stored", "none")
    name = LOG_ODDS_LAYER if is_last else "class_scores"
    routing = _routing(planned, outputs)
    log_odds = _score_classes(planned, outputs, name, routing)
    claims = None
    if routing is not None:
        found["routed"] = True
        claims = _score_classes(planned, outputs, "claims")
    if scores.is_fitted:
        given = image, log_odds, claims, outputs, routing
        log_odds, claims = _fitted(planned, *given, images), None
    elif scores.calibration == "unlabelled":
        shares = _shares(planned, image, log_odds, outputs, images)
        names = [entry.name for entry in planned.classes]
        found |= {
            "num_images": len(images),
            "class_shares": dict(zip(names, shares.tolist())),
        }
        last = LOG_ODDS_LAYER if scores.other is None else "shifted_scores"
        changes = np.log(shares * len(shares)).tolist()
        log_odds = line(log_odds, 1.0, changes, last)
    if scores.other is not None:
        log_odds = add_other(log_odds, scores.other, claims, unfamiliarity)
    name = planned.spec.name
    return build_classifier(image, log_odds, name, scores.output), found


def _shares(planned, image, log_odds, outputs, images):
    """Estimates how frequent classes are among unlabelled images.

    Raises:
        ArtifactError: If the images tell too little of that.
    """
    least = LEAST_UNLABELLED * len(planned.classes)
    if len(images) < least:
        raise ArtifactError(
            f"To see how frequent classes are takes {LEAST_UNLABELLED} images "
            f"for each. Received: {len(images)} unlabelled images for "
            f"{len(planned.classes)} classes. Give more, or write "
            "`calibration: stored`."
        )
    if STATISTICS in outputs:
        _check_familiar(planned, image, outputs, images)
    answers = softmax(log_odds, "answers")
    probabilities = predict(keras.Model(image, answers), images)
    return shares_without_labels(probabilities.astype("float64"))


def _check_familiar(planned, image, outputs, images):
    """Refuses unlabelled images that are like those of no source."""
    measured = add_unfamiliarity(
        outputs[STATISTICS],
        _familiarities(planned),
        measured_images(planned)[0].shape,
        OWN_REJECTED,
    )
    unlike = np.mean(predict(keras.Model(image, measured), images) > 0)
    if unlike > MOST_UNFAMILIAR:
        raise ArtifactError(
            "Unlabelled images must be like those of the sources, or the "
            "classes found in them can not be trusted. Received: "
            f"{unlike:.0%} of {len(images)} images are less familiar than "
            f"{1 - OWN_REJECTED:.0%} of the sources' own; at most "
            f"{MOST_UNFAMILIAR:.0%} may be. Give images of the new task, or "
            "write `calibration: stored`."
        )


def _unlabelled_images(planned, data_dir, given):
    reader = reader_of_manifest(manifest_of(planned), given)
    found = [
        reader.load_unlabelled(data, data_dir)
        for data in planned.spec.scores.data
    ]
    return concatenate(found)


def _score_classes(planned, outputs, name, routing=None):
    shifts = iter(planned.shifts)
    names_by_class = _names_by_class(planned)
    return score_classes(
        [[outputs[each] for each in names] for names in names_by_class],
        name,
        [[next(shifts) for _ in names] for names in names_by_class],
        routing and functools.partial(_routed, routing),
    )


def _familiarities(planned):
    return [
        planned.stores[name].familiarity for name in planned.sources.values()
    ]


def _worlds(planned):
    """Returns the index of each source's world, none if there is one world."""
    if not planned.is_routed:
        return {}
    worlds = group_worlds(_familiarities(planned))
    return dict(zip(planned.sources, worlds)) if max(worlds) else {}


@dataclasses.dataclass(frozen=True, eq=False)
class _Routing:
    """What makes scores comparable across worlds.

    Attributes:
        evidence: How likely images are among those of worlds and classes.
        modules: Of each class's modules the index of the source, and the
            class there.
    """

    evidence: Evidence
    modules: list[list[tuple[int, str]]]

    @property
    def worlds(self):
        """Index of each class's world; `None` if a class has several."""
        of_sources = self.evidence.worlds
        worlds = [{of_sources[i] for i, _ in own} for own in self.modules]
        if any(len(own) > 1 for own in worlds):
            return None
        return [each for (each,) in worlds]


def _routing(planned, outputs):
    """Returns the `_Routing`, if there are several worlds."""
    worlds = _worlds(planned)
    if not worlds:
        return None
    evidence = add_evidence(
        outputs[STATISTICS],
        _familiarities(planned),
        list(worlds.values()),
        measured_images(planned)[0].shape,
    )

    sources = list(worlds)

    def source_of(module):
        digest = planned.stores[module.ref.store].manifest.source.digest
        return sources.index(digest), module.ref.class_name

    return _Routing(
        evidence,
        [[source_of(module) for module in c.modules] for c in planned.classes],
    )


def _routed(routing, log_odds, name):
    modules = [module for own in routing.modules for module in own]
    return route(log_odds, name, evidence=routing.evidence, modules=modules)


def _unfamiliarity(planned, outputs):
    other = planned.spec.scores.other
    if other is None or other.reject is None:
        return None
    return add_unfamiliarity(
        outputs[STATISTICS],
        _familiarities(planned),
        measured_images(planned)[0].shape,
        other.reject,
    )


def _needs_statistics(planned):
    other = planned.spec.scores.other
    is_rejecting = other is not None and other.reject is not None
    return planned.spec.base is None and (
        is_rejecting or bool(_worlds(planned))
    )


def measured_images(
    planned: CompositionPlan,
) -> tuple[InputContract, Adaptation]:
    """Returns which images familiarity measures, and how they are adapted to.

    Sources that take the same images see them as they are measured.

    Args:
        planned: The plan.
    """
    contracts = {
        planned.stores[name].manifest.input: planned.adaptations[name]
        for name in planned.sources.values()
    }
    if len(contracts) == 1:
        return next(iter(contracts.items()))
    return planned.input, Adaptation()


def _fitted(planned, image, log_odds, claims, outputs, routing, images):
    """Calibrates the scores of all classes on labelled images."""
    scores = planned.spec.scores
    names = tuple(entry.name for entry in planned.classes)
    last = LOG_ODDS_LAYER if scores.other is None else "fitted_scores"
    own = log_odds if claims is None else claims
    if scores.calibration == "fit":
        worlds = routing and routing.worlds
        model = keras.Model(image, own)
        lines = fit_lines(model, images, names, scores.prior, worlds)
        if worlds is None:
            return apply_lines(own, lines, last)
        fitted = apply_lines(own, lines, "calibrated_claims")
        first = [own[0] for own in routing.modules]
        return route(fitted, last, evidence=routing.evidence, modules=first)
    weighed = [own, *(outputs[name] for name in _auxiliary_names(planned))]
    weighed = join(weighed, "all_scores") if weighed[1:] else own
    start, given = None, weighed
    if claims is not None:
        start = log_odds
        given = join([start, weighed], "start_and_scores")
    model = keras.Model(image, given)
    layer = fit_joint(model, images, names, scores.prior, start is not None)
    return apply_layer(weighed, layer, last, start)


def images_to_fit_on(
    planned: CompositionPlan,
    data_dir: str | Path | None = None,
    given: Mapping[DataRef, Any] | None = None,
) -> LabelledImages:
    """Loads the labelled images that a spec calibrates its scores on.

    Args:
        planned: The plan.
        data_dir: Directory of the prepared data sets.
        given: Images by the data set that they stand for; see `given_images`.

    Returns:
        Images, labels in the order of the plan's classes.
    """
    scores = planned.spec.scores
    names = tuple(entry.name for entry in planned.classes)
    reader = dataclasses.replace(
        reader_of_manifest(manifest_of(planned), given),
        class_names=names,
        other=len(names),
    )
    few = [
        reader.load(data, data_dir, scores.images_per_class)
        for data in scores.data
    ]
    return LabelledImages(
        concatenate([each.images for each in few]),
        np.concatenate([each.labels for each in few]),
    )
