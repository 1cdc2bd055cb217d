"""Builds one classifier from the modules that a spec names."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from kmod.composition.checks import run_checks
from kmod.composition.classifier import build_classifier
from kmod.composition.classifier import join
from kmod.composition.composition_plan import CompositionPlan
from kmod.composition.joint_scores import apply_layer
from kmod.composition.joint_scores import fit_joint
from kmod.composition.labelled_images import reader_of_plan
from kmod.composition.parts import build_parts
from kmod.composition.parts import load_weak
from kmod.composition.parts import part_names
from kmod.composition.parts import patches_of
from kmod.composition.parts import support_names
from kmod.composition.patched_model import build_patched
from kmod.composition.plan import plan
from kmod.composition.scoring import add_other
from kmod.composition.scoring import apply_lines
from kmod.composition.scoring import fit_lines
from kmod.composition.scoring import score_classes
from kmod.data.image_data import LabelledImages
from kmod.graph.fusion.fuse import fuse
from kmod.graph.sharing import merge_models
from kmod.spec.loader import load_spec
from kmod.spec.model import Spec


def compose(
    spec: str | Path | Spec, data_dir: str | Path | None = None
) -> keras.Model:
    """Builds the model that a composition spec declares, and checks it.

    Layers that the modules have in common are built once, and what is left is
    laid out to run fast; see `fuse`. The layer `log_odds` holds the scores in
    front of the softmax.

    Args:
        spec: The spec, or the path of its YAML file.
        data_dir: Directory of the prepared data sets that the spec's checks
            and calibration name.

    Returns:
        Functional model of built-in layers, images to `(batch, num_classes)`
        in the spec's order of classes; of equal answers the first one counts.
        Its attribute `class_names` is not saved with a `.keras` file;
        `save_composition` keeps it.

    Raises:
        SpecError: If the spec is not valid.
        ArtifactError: If what it names is missing or does not fit together.
        IntegrityError: If a store or module is not as it was written.
        CheckError: If one of the spec's checks fails.

    Example:

    >>> model = kmod.compose("specs/compose_digits.yaml")
    >>> model.predict(images).argmax(axis=-1)
    """
    if not isinstance(spec, Spec):
        spec = load_spec(spec)
    planned = plan(spec)
    model = compose_plan(planned, data_dir)
    run_checks(model, planned, data_dir)
    return model


def compose_plan(
    planned: CompositionPlan, data_dir: str | Path | None = None
) -> keras.Model:
    """Builds the model of a plan, without its checks; see `compose`."""
    model = fuse(_build(planned, data_dir))
    model.class_names = planned.spec.class_names
    return model


def _build(planned, data_dir):
    if planned.spec.base is not None:
        return build_patched(
            load_weak(planned), patches_of(planned), planned.spec.name
        )
    return _compose(planned, data_dir)


def _compose(planned, data_dir):
    image, outputs = merge_models(build_parts(planned))
    scores = planned.spec.scores
    has_other = scores.other is not None
    log_odds = score_classes(
        [[outputs[part] for part in parts] for parts in part_names(planned)],
        is_last=not (has_other or scores.is_fitted),
    )
    if scores.support:
        more = [outputs[name] for name in support_names(planned)]
        log_odds = join([log_odds, *more], "supported_scores")
    if scores.is_fitted:
        log_odds = _fitted(planned, image, log_odds, data_dir)
    if has_other:
        log_odds = add_other(log_odds, scores.other)
    return build_classifier(image, log_odds, planned.spec.name, scores.output)


def _fitted(planned, image, log_odds, data_dir):
    """Calibrates the scores of all classes on labelled images."""
    scores, model = planned.spec.scores, keras.Model(image, log_odds)
    names = tuple(entry.name for entry in planned.classes)
    images = _images_to_fit_on(planned, names, data_dir)
    if scores.calibration == "joint":
        return apply_layer(log_odds, fit_joint(model, images, names))
    lines = fit_lines(model, images, names)
    return apply_lines(log_odds, lines, is_last=scores.other is None)


def _images_to_fit_on(planned, names, data_dir):
    scores = planned.spec.scores
    reader = dataclasses.replace(
        reader_of_plan(planned), class_names=names, other=len(names)
    )
    few = [
        reader.load(data, data_dir, scores.images_per_class)
        for data in scores.data
    ]
    return LabelledImages(
        np.concatenate([part.images for part in few]),
        np.concatenate([part.labels for part in few]),
    )
