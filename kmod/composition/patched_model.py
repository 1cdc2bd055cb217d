"""Builds a weak model whose answer for one class takes in a module's."""

import dataclasses

import keras
import numpy as np

from kmod.composition.classifier import LOG_ODDS_LAYER
from kmod.composition.classifier import build_classifier
from kmod.composition.sharing import merge_models
from kmod.errors import ArtifactError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.class_module import ClassModule
from kmod.spec.model import Coefficients


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """What a patch decides by, as one graph.

    Attributes:
        image: The input.
        logits: `(batch, num_classes)`, of the weak model.
        others: `(batch, num_classes - 1)`, log-probabilities of the weak
            model among the classes that are not the target.
        log_odds: `(batch, 1)`, of the module.
    """

    image: keras.KerasTensor
    logits: keras.KerasTensor
    others: keras.KerasTensor
    log_odds: keras.KerasTensor


def build_patched(
    weak: keras.Model,
    target_index: int,
    module: ClassModule,
    coefficients: Coefficients,
    name: str | None = None,
) -> keras.Model:
    """Builds a patched model of built-in layers.

    With `p` the weak model's probabilities and `t` the target class, the
    scores in front of the final softmax are

    - `log(p_j / (1 - p_t))` for every other class `j`: how the weak model
      ranks them stays as it was;
    - `module * s + weak * log(p_t / (1 - p_t)) + bias` for the target, where
      `s` is the module's log-odds.

    Both are linear in the logits, the log-softmax of the other logits and
    `s`, so one Dense layer of fixed weights computes them.

    Args:
        weak: The weak model. It is copied, never changed.
        target_index: Index of the target class in its output.
        module: The module that knows the target class better.
        coefficients: Weights `module`, `weak` and `bias`.
        name: Name of the new model. Defaults to the weak model's, patched.

    Returns:
        Functional model, images to `(batch, num_classes)` probabilities, the
        classes in the weak model's order.

    Raises:
        ArtifactError: If weak model and module take different images.
        UnsupportedModelError: If the weak model's graph can not be read.
    """
    evidence = _evidence(weak, target_index, module)
    inputs = [evidence.logits, evidence.others, evidence.log_odds]
    values = keras.layers.Concatenate(name="evidence", dtype="float32")(inputs)
    num_classes = evidence.logits.shape[-1]
    scores = _fixed_dense(
        values,
        _combination(num_classes, target_index, coefficients),
        LOG_ODDS_LAYER,
        bias=coefficients.bias * np.eye(num_classes)[target_index],
    )
    name = name or f"{weak.name}_patched"
    return build_classifier(evidence.image, scores, name)


def evidence_model(
    weak: keras.Model, target_index: int, module: ClassModule
) -> keras.Model:
    """Builds what coefficients are fitted on.

    Args:
        weak: The weak model.
        target_index: Index of the target class in its output.
        module: The module.

    Returns:
        Functional model, images to a dict of `logits` `(batch, num_classes)`
        of the weak model and `log_odds` `(batch, 1)` of the module.
    """
    evidence = _evidence(weak, target_index, module)
    return keras.Model(
        evidence.image,
        {"logits": evidence.logits, "log_odds": evidence.log_odds},
    )


def _evidence(weak, target_index, module):
    weak = rebuild(channel_graph(weak))
    _check_images(weak, module)
    calibration = module.model.get_layer(CALIBRATION_LAYER)
    scorer = keras.Model(module.model.input, calibration.output)
    image, outputs = merge_models({"weak": weak, "module": scorer})
    logits = outputs["weak"]
    others = np.delete(np.eye(logits.shape[-1]), target_index, axis=1)
    others = _fixed_dense(logits, others, "other_logits")
    log_softmax = keras.layers.Activation(
        "log_softmax", name="other_log_probabilities", dtype="float32"
    )
    return _Evidence(image, logits, log_softmax(others), outputs["module"])


def _check_images(weak, module):
    wanted, received = (
        (model.inputs[0].dtype, tuple(model.inputs[0].shape[1:]))
        for model in (weak, module.model)
    )
    if wanted != received:
        raise ArtifactError(
            "A module must take the weak model's images, of "
            f"{wanted[0]} and shape {wanted[1]}. Received: the module of class "
            f"{module.info.class_name!r} for images of {received[0]} and shape "
            f"{received[1]}. Take a module of a source model with the same "
            "input."
        )


def _combination(num_classes, target, coefficients):
    """Kernel from logits, other log-probabilities and log-odds to scores."""
    others = np.delete(np.arange(num_classes), target)
    kernel = np.zeros((2 * num_classes, num_classes))
    kernel[num_classes + np.arange(num_classes - 1), others] = 1
    # log(1 - p_t) = log(p_j) - other_log_probability_j for any other class j.
    kernel[target, target] = coefficients.weak
    kernel[others[0], target] = -coefficients.weak
    kernel[num_classes, target] = coefficients.weak
    kernel[-1, target] = coefficients.module
    return kernel


def _fixed_dense(inputs, kernel, name, bias=None):
    layer = keras.layers.Dense(
        kernel.shape[1],
        use_bias=bias is not None,
        name=name,
        trainable=False,
        dtype="float32",
    )
    outputs = layer(inputs)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return outputs
