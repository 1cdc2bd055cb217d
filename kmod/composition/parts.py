"""The models that a composed model is merged from."""

from collections.abc import Iterable

import keras

from kmod.composition.composition_plan import CompositionPlan
from kmod.composition.patched_model import MODULE_ALONE
from kmod.composition.patched_model import Patch
from kmod.composition.patched_model import patch_parts
from kmod.errors import ArtifactError
from kmod.files import slugs
from kmod.graph.sizes import model_sizes
from kmod.modules.adapters import adapt_model
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.keras_file import load_keras_file


def build_parts(planned: CompositionPlan) -> dict[str, keras.Model]:
    """Builds every part of a composed model, nothing shared yet.

    Args:
        planned: The plan.

    Returns:
        Functional models by the names that `merge_models` gives their layers,
        all on images of `planned.input`: the scores of the modules, and of a
        patch spec the weak model's logits as well.
    """
    if planned.spec.base is not None:
        return patch_parts(load_weak(planned), patches_of(planned))
    image = keras.Input(planned.input.shape, dtype=planned.input.dtype)
    names = [name for names in part_names(planned) for name in names]
    names += support_names(planned)
    return {
        name: adapt_model(
            _scorer(planned, module),
            planned.adaptations[module.ref.store],
            image,
        )
        for name, module in zip(names, planned.modules, strict=True)
    }


def part_names(planned: CompositionPlan) -> list[list[str]]:
    """Names the parts of every class of a spec with `classes`."""
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


def support_names(planned: CompositionPlan) -> list[str]:
    """Names the parts of `scores.support`, unlike those of any class."""
    return [f"support__{number}" for number in range(len(planned.support))]


def patches_of(planned: CompositionPlan) -> list[Patch]:
    """Returns the patches of a patch spec with their modules loaded."""
    spec = planned.spec
    return [
        Patch(
            spec.base.classes.index(entry.class_name),
            _load(planned, planned_class.modules[0]),
            entry.combine,
            tuple(_load(planned, each) for each in planned_class.modules[1:]),
            entry.layer,
            entry.coefficients or MODULE_ALONE,
            entry.range,
            planned.adaptations[entry.module.store],
        )
        for entry, planned_class in zip(spec.patches, planned.classes)
    ]


def load_weak(planned: CompositionPlan) -> keras.Model:
    """Loads the weak model of a patch spec.

    Raises:
        ArtifactError: If it can not be loaded, takes other images than the
            plan says or has not the classes that the spec names.
    """
    base = planned.spec.base
    weak = load_keras_file(base.path)
    if weak.output_shape != (None, len(base.classes)):
        raise ArtifactError(
            f"The spec names {len(base.classes)} classes of its base, so "
            "that must answer as many scores. Received: an output of shape "
            f"{weak.output_shape} from '{base.path}'. Correct "
            "`base.classes`."
        )
    sizes = zip(weak.input_shape[1:], planned.input.shape, strict=True)
    if any(own not in (None, size) for own, size in sizes):
        raise ArtifactError(
            f"The weak model must take images of {planned.input.shape}, as "
            "the plan says. Received: images of "
            f"{tuple(weak.input_shape[1:])} from '{base.path}'. Write its "
            "own images as `input` into the spec; the modules get adapters."
        )
    return weak


def total_sizes(models: Iterable[keras.Model]) -> dict[str, int]:
    """Adds up the `parameters` and `macs` of models."""
    sizes = [model_sizes(model) for model in models]
    return {
        key: sum(getattr(size, key) for size in sizes)
        for key in ("parameters", "macs")
    }


def _load(planned, module):
    return planned.stores[module.ref.store][module.ref.class_name]


def _scorer(planned, module):
    """Returns the part of a module whose output is compared with others."""
    model = _load(planned, module).model
    layer = model.get_layer(CALIBRATION_LAYER)
    is_raw = planned.spec.scores.calibration == "none"
    return keras.Model(model.input, layer.input if is_raw else layer.output)
