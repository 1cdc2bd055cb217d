"""Builds a weak model whose answers for some classes take in modules'."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from kmod.composition.scoring import LOG_ODDS_LAYER
from kmod.composition.scoring import PROBABILITIES_LAYER
from kmod.composition.scoring import apply_layer
from kmod.composition.scoring import build_classifier
from kmod.composition.scoring import join
from kmod.composition.scoring import line
from kmod.composition.scoring import softmax
from kmod.errors import ArtifactError
from kmod.graph.sharing import merge_models
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import adapt_model
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.class_module import ClassModule
from kmod.spec.model import WEAK_SHARE
from kmod.spec.model import PatchLayer

WEAK = "weak"


@dataclasses.dataclass(frozen=True, eq=False)
class Patch:
    """A module that takes part in the answer for one class.

    Attributes:
        target: Index of the target class in the weak model's output.
        module: The module that knows the class better.
        combine: How the two scores become one; see `build_patched`.
        auxiliary: Other modules of the store whose scores the layer weighs.
        others: Of the rule `divided`, the index of each auxiliary module's
            class in the weak model's output.
        layer: Weights of the rules `calibrated` and `divided` for all classes;
            `None` if the modules answer as they are.
        range: Smallest and largest raw score, of the rule `minmax`.
        adaptation: How the weak model's images become the module's.
        weak_share: Of the rule `divided`, how much the weak model's ranking of
            the classes of auxiliary modules counts beside theirs, 0 to 1.
    """

    target: int
    module: ClassModule
    combine: Literal["calibrated", "divided", "minmax", "raw"] = "calibrated"
    auxiliary: tuple[ClassModule, ...] = ()
    others: tuple[int, ...] = ()
    layer: PatchLayer | None = None
    range: tuple[float, float] | None = None
    adaptation: Adaptation = Adaptation()
    weak_share: float = WEAK_SHARE

    @property
    def part(self) -> str:
        """Name of the module's layers in the patched model."""
        return f"module_{self.target}"

    @property
    def parts(self) -> dict[str, ClassModule]:
        """The modules by the name of their layers, the target's first."""
        others = enumerate(self.auxiliary, 1)
        auxiliary = {f"{self.part}_{number}": each for number, each in others}
        return {self.part: self.module, **auxiliary}


def build_patched(weak: keras.Model, patches: Sequence[Patch]) -> keras.Model:
    """Builds a patched model of built-in layers.

    With `p` the weak model's probabilities and `T` the targets of calibrated
    patches without a layer, the scores in front of a softmax are

    - `log(p_j / sum of p over all but T)` for every class `j` not in `T`: how
      the weak model ranks them stays as it was;
    - the log-odds of the module for `T`.

    The other patches follow one after another. By the rule `divided`, the
    module and auxiliary ones divide among their classes what `softmax(z)` of
    the scores `z` so far gives to these classes together: the target gets the
    softmax `m` of the modules' log-odds, and the others share the rest as
    `softmax(z)^a * m^(1 - a)` ranks them, where `a` is the patch's
    `weak_share`. A layer turns the scores into
    `weak_j * log(softmax(z)_j) + module_j * s + bias_j`, where `s` are the
    module's log-odds, and what auxiliary modules add in the same way. Behind
    a division it may add what all of `log(softmax(z))` say before it.
    The other rules at last replace the target's probability and leave the
    rest as it is, so that the answers no longer add up to 1: `raw` by the
    module's probability, `minmax` by its raw score `o` as
    `(o - min) / (max - min)`. The class with the highest answer counts.

    Args:
        weak: The weak model up to its logits, as `rebuild` makes it. It is
            copied, never changed.
        patches: The patches, each of another class.

    Returns:
        Functional model, images to `(batch, num_classes)`, the classes in the
        weak model's order.

    Raises:
        ArtifactError: If weak model and module take different images.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), for `minmax`.
    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438), for `raw`.
    """
    parts = patch_parts(weak, patches)
    return merge_patched(parts.items(), patches, f"{weak.name}_patched")


def merge_patched(
    parts: Iterable[tuple[str, keras.Model]],
    patches: Sequence[Patch],
    name: str,
) -> keras.Model:
    """Builds a patched model of the items that `patch_parts` lists."""
    image, outputs = merge_models(parts)
    log_odds = _patched_scores(patches, outputs)
    columns = {
        patch.target: _replacement(patch, outputs[patch.part])
        for patch in patches
        if patch.combine in ("minmax", "raw")
    }
    if not columns:
        return build_classifier(image, log_odds, name)
    whole = softmax(log_odds, "patch_probabilities")
    answers = _with_columns(whole, columns, PROBABILITIES_LAYER)
    return keras.Model(image, answers, name=name)


def patch_parts(
    weak: keras.Model, patches: Sequence[Patch]
) -> dict[str, keras.Model]:
    """Lists what a patched model is merged from.

    Args:
        weak: The weak model up to its logits.
        patches: The patches.

    Returns:
        Functional models on the weak model's images: its own as `weak`, and
        for every module of a patch the score that its rule asks for.
    """
    scorers = {}
    for patch in patches:
        for part, module in patch.parts.items():
            check_images(weak, module, patch.adaptation)
            scorer = _scorer(module, patch.combine)
            scorers[part] = adapt_model(
                scorer, patch.adaptation, weak.inputs[0]
            )
    return {WEAK: weak, **scorers}


def _scorer(module, combine):
    model = module.model
    calibration = model.get_layer(CALIBRATION_LAYER)
    outputs = {
        "calibrated": calibration.output,
        "divided": calibration.output,
        "minmax": calibration.input,
        "raw": model.output,
    }
    return keras.Model(model.input, outputs[combine])


def check_images(
    weak: keras.Model, module: ClassModule, adaptation: Adaptation
) -> None:
    """Makes sure that a module takes the weak model's images.

    Raises:
        ArtifactError: If it takes others, and there is no adaptation.
    """
    wanted, received = (
        (model.inputs[0].dtype, tuple(model.inputs[0].shape[1:]))
        for model in (weak, module.model)
    )
    if wanted != received and not adaptation.is_needed:
        raise ArtifactError(
            "A module must take the weak model's images, of "
            f"{wanted[0]} and shape {wanted[1]}. Received: the module of class "
            f"{module.info.class_name!r} for images of {received[0]} "
            f"and shape {received[1]}. Give an adaptation, with `input` in a "
            "spec or `adaptation` in Python."
        )


def _patched_scores(patches, outputs):
    """Returns the scores in front of the softmax, `(batch, num_classes)`."""
    columns = {
        patch.target: outputs[patch.part]
        for patch in patches
        if patch.combine == "calibrated" and patch.layer is None
    }
    steps = [
        (step, patch, f"patch_{patch.target}_{name}")
        for patch in patches
        for step, name, is_due in (
            (_divided_scores, "divided", patch.combine == "divided"),
            (_layer_scores, "scores", patch.layer is not None),
        )
        if is_due
    ]
    names = ["patch_scores", *(name for _, _, name in steps)]
    names[-1] = LOG_ODDS_LAYER
    scores = _with_target_scores(outputs[WEAK], columns, names[0])
    before = {}  # The scores that a patch begins with, by its target.
    for (step, patch, _), name in zip(steps, names[1:]):
        first = before.setdefault(patch.target, scores)
        scores = step(patch, scores, outputs, name, first)
    return scores


def _with_target_scores(logits, columns, name):
    rest = [i for i in range(logits.shape[1]) if i not in columns]
    if columns and rest:
        others = keras.ops.take(logits, rest, axis=-1)
        logits = logits - keras.ops.logsumexp(others, axis=-1, keepdims=True)
    return _with_columns(logits, columns, name)


def _divided_scores(patch, scores, outputs, name, _):
    weak = _log_softmax(scores)
    own = keras.ops.take(weak, [patch.target, *patch.others], axis=-1)
    modules = join([outputs[part] for part in patch.parts], f"{name}_modules")
    modules = _log_softmax(modules)
    ranks = patch.weak_share * own[:, 1:]
    ranks += (1 - patch.weak_share) * modules[:, 1:]
    rest = keras.ops.logsumexp(modules[:, 1:], axis=-1, keepdims=True)
    whole = keras.ops.logsumexp(own, axis=-1, keepdims=True)
    others = _log_softmax(ranks) + rest + whole
    columns = {patch.target: modules[:, :1] + whole} | {
        index: others[:, number : number + 1]
        for number, index in enumerate(patch.others)
    }
    return _with_columns(weak, columns, name)


def _log_softmax(scores):
    return scores - keras.ops.logsumexp(scores, axis=-1, keepdims=True)


def _layer_scores(patch, scores, outputs, name, before):
    layer = patch.layer
    weak = _log_softmax(scores)
    terms = [line(weak, layer.weak, layer.bias, f"{patch.part}_weak")]
    for part, factors in zip(patch.parts, (layer.module, *layer.auxiliary)):
        columns = keras.ops.repeat(outputs[part], scores.shape[1], axis=-1)
        terms.append(line(columns, factors, 0.0, f"{part}_weighted"))
    if layer.undivided:
        weights = np.array(layer.undivided), np.zeros(scores.shape[1])
        terms.append(
            apply_layer(
                _log_softmax(before), weights, f"{patch.part}_undivided"
            )
        )
    return keras.layers.Add(name=name, dtype="float32")(terms)


def _replacement(patch, score):
    if patch.combine == "raw":
        return score
    low, high = patch.range
    scale = 1 / (high - low)
    return line(score, scale, -low * scale, f"patch_{patch.target}_scaled")


def _with_columns(values, columns, name):
    """Replaces single columns of `(batch, num_classes)`."""
    pieces, start = [], 0
    for target in sorted(columns):
        pieces += [values[:, start:target]] if target > start else []
        pieces.append(columns[target])
        start = target + 1
    if start < values.shape[1]:
        pieces.append(values[:, start:] if start else values)
    return join(pieces, name)
