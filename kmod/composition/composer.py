"""Builds one classifier from the modules that a spec names."""

from pathlib import Path

import keras

from kmod.composition.classifier import LOG_ODDS_LAYER
from kmod.composition.classifier import build_classifier
from kmod.composition.keras_file import load_keras_file
from kmod.composition.patched_model import build_patched
from kmod.composition.plan import CompositionPlan
from kmod.composition.plan import plan
from kmod.composition.sharing import merge_models
from kmod.errors import ArtifactError
from kmod.files import slugs
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.spec.loader import load_spec
from kmod.spec.model import Coefficients
from kmod.spec.model import Spec

# What a patch without fitted coefficients does: the module answers alone.
MODULE_ALONE = Coefficients(module=1.0, weak=0.0, bias=0.0)


def compose(spec: str | Path | Spec) -> keras.Model:
    """Builds the model that a composition spec declares.

    Layers that the modules have in common are built once. The layer
    `log_odds` holds the scores in front of the softmax.

    Args:
        spec: The spec, or the path of its YAML file.

    Returns:
        Functional model of built-in layers, images to `(batch, num_classes)`
        probabilities in the spec's order of classes. Its attribute
        `class_names` is not saved with a `.keras` file;
        `save_composition` keeps it.

    Raises:
        SpecError: If the spec is not valid.
        ArtifactError: If what it names is missing or does not fit together.
        IntegrityError: If a store or module is not as it was written.

    Example:

    >>> model = kmod.compose("specs/compose_digits.yaml")
    >>> model.predict(images).argmax(axis=-1)
    """
    if not isinstance(spec, Spec):
        spec = load_spec(spec)
    return compose_plan(plan(spec))


def compose_plan(planned: CompositionPlan) -> keras.Model:
    """Builds the model of a plan; see `compose`."""
    spec = planned.spec
    model = _patch(planned) if spec.base is not None else _compose(planned)
    model.class_names = spec.class_names
    return model


def _compose(planned):
    prefixes = slugs(entry.name for entry in planned.classes)
    models = {
        prefixes[entry.name]: _scores(_module(planned, entry), planned.spec)
        for entry in planned.classes
    }
    image, scores = merge_models(models)
    concatenate = keras.layers.Concatenate(name=LOG_ODDS_LAYER, dtype="float32")
    log_odds = concatenate(list(scores.values()))
    return build_classifier(image, log_odds, planned.spec.name)


def _module(planned, entry):
    (module,) = entry.modules
    return planned.stores[module.ref.store][module.ref.class_name]


def _scores(module, spec):
    """Returns the part of a module whose output is compared with others."""
    calibration = module.model.get_layer(CALIBRATION_LAYER)
    is_stored = spec.scores.calibration == "stored"
    return keras.Model(
        module.model.input,
        calibration.output if is_stored else calibration.input,
    )


def _patch(planned):
    spec, (entry,) = planned.spec, planned.classes
    weak = load_keras_file(spec.base.path)
    if weak.output_shape != (None, len(spec.base.classes)):
        raise ArtifactError(
            f"The spec names {len(spec.base.classes)} classes of its base, so "
            "that must answer as many scores. Received: an output of shape "
            f"{weak.output_shape} from '{spec.base.path}'. Correct "
            "`base.classes`."
        )
    return build_patched(
        weak,
        spec.base.classes.index(entry.name),
        _module(planned, entry),
        spec.patches[0].coefficients or MODULE_ALONE,
        name=spec.name,
    )
