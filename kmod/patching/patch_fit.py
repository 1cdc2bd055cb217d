"""Fits a patch on scores and tells what it does on unseen images."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from kmod.composition.patched_model import Patch
from kmod.errors import CheckError
from kmod.modules.adaptation import Adaptation
from kmod.modules.class_module import ClassModule
from kmod.patching.coefficients import cross_predictions
from kmod.patching.coefficients import fit_layer
from kmod.patching.coefficients import fit_range
from kmod.patching.patch_figures import Figures
from kmod.patching.patch_figures import Scores
from kmod.patching.patch_figures import figures_of
from kmod.patching.patch_figures import layer_predictions
from kmod.patching.patch_figures import minmax_predictions
from kmod.patching.patch_figures import raw_predictions


@dataclasses.dataclass(frozen=True, eq=False)
class PatchFit:
    """A fitted patch, and what it did on images it was not fitted on.

    Attributes:
        patch: The patch.
        before: Figures of the weak model on the validation images.
        after: Figures of the patched model there; every image was answered
            by weights that were fitted without it.
        lost: How many fewer images of the other classes it gets right.
    """

    patch: Patch
    before: Figures
    after: Figures
    lost: int

    @property
    def helps(self) -> bool:
        """Whether F1 rises and the other classes lose no accuracy.

        A single image more or less is none: it may be chance, and where the
        weak model never answers with the target, it can only be one less.
        """
        return self.lost <= 1 and self.after.f1 > self.before.f1


def fit_on_scores(
    scores: Scores,
    module: ClassModule,
    combine: Literal["calibrated", "minmax", "raw"] = "calibrated",
    adaptation: Adaptation = Adaptation(),
    support: Sequence[ClassModule] = (),
) -> PatchFit:
    """Fits a patch on what weak model and module say of validation images.

    Args:
        scores: Scores of the images.
        module: The module they are of.
        combine: How the two scores become one.
        adaptation: How the weak model's images become the module's.
        support: The modules that `scores.support` is of.

    Returns:
        The `PatchFit`, whether the patch helps or not.

    Raises:
        UsageError: If the rule `minmax` can not be fitted.
    """
    patch = Patch(
        scores.target,
        module,
        combine,
        support=tuple(support),
        adaptation=adaptation,
    )
    if combine == "calibrated":
        patch = dataclasses.replace(patch, layer=fit_layer(scores))
    elif combine == "minmax":
        patch = dataclasses.replace(patch, range=fit_range(scores))
    fit = functools.partial(_FITS[combine], patch)
    predictions = cross_predictions(fit, scores)
    before, after = (
        np.sum((answers == scores.labels) & ~scores.is_target)
        for answers in (scores.predictions, predictions)
    )
    return PatchFit(
        patch,
        before=figures_of(scores.predictions, scores),
        after=figures_of(predictions, scores),
        lost=int(before - after),
    )


def check_gain(fitted: PatchFit, class_name: int | str) -> None:
    """Refuses a patch that does not help.

    Raises:
        CheckError: If it does not raise the target's F1 on the validation
            images, or takes accuracy from the other classes there.
    """
    before, after = fitted.before, fitted.after
    if not fitted.helps:
        raise CheckError(
            "A patch must raise the F1 of its class on the validation data, "
            "without loss of accuracy on the other classes. Received: F1 of "
            f"class {class_name!r} {before.f1:.4f} before and "
            f"{after.f1:.4f} after, the others' accuracy "
            f"{before.other_accuracy:.4f} and {after.other_accuracy:.4f}. "
            "Take a better donor, more validation images or another class."
        )


def _calibrated(patch, scores):
    layer = fit_layer(scores, start=patch.layer)
    return lambda others: layer_predictions(layer, others)


def _minmax(patch, scores):
    limits = fit_range(scores)
    return lambda others: minmax_predictions(limits, others)


def _raw(patch, scores):
    return raw_predictions


_FITS = {"calibrated": _calibrated, "minmax": _minmax, "raw": _raw}
