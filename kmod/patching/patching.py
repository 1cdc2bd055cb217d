"""Chooses, for the weak classes of a model, the modules that patch them."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np

from kmod.data.batches import to_arrays
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.weak_classes import weak_classes
from kmod.modules.manifest import InputContract
from kmod.patching.donors import Donor
from kmod.patching.donors import module_answers
from kmod.patching.patch_figures import Scores
from kmod.patching.patch_figures import layer_scores
from kmod.patching.patch_fit import PatchFit
from kmod.patching.patch_fit import fit_on_scores
from kmod.patching.patcher import check_labels
from kmod.patching.patcher import target_index


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A module that was tried as a patch.

    Attributes:
        target_class: Name of the class it shall answer for.
        donor: The donor it is of.
        fit: The fitted patch with its figures on validation images.
    """

    target_class: str
    donor: Donor
    fit: PatchFit

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "target_class": self.target_class,
            "store": str(self.donor.store.path),
            "class": self.fit.patch.module.info.class_name,
            "support": [m.info.class_name for m in self.fit.patch.support],
            "before": dataclasses.asdict(self.fit.before),
            "after": dataclasses.asdict(self.fit.after),
            "helps": self.fit.helps,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PatchChoice:
    """What was tried on validation images, and what was chosen.

    Attributes:
        evaluation: The weak model there.
        chosen: One module for each class that gains, in the order in which
            the patches must be applied.
        tried: All modules, by class, the best of each class first.
    """

    evaluation: Evaluation
    chosen: tuple[Candidate, ...]
    tried: tuple[Candidate, ...]


def choose_patches(
    weak: keras.Model,
    donors: Sequence[Donor],
    data: Any,
    *,
    target_classes: Sequence[int | str] | None = None,
    class_names: Sequence[str] | None = None,
    combine: Literal["calibrated", "minmax", "raw"] = "calibrated",
    contract: InputContract | None = None,
    alone: bool = False,
    track: Callable[[Sequence[Donor]], Iterable[Donor]] = iter,
) -> PatchChoice:
    """Chooses the modules that patch a weak model, on validation data.

    The weak model and every module run once over the images. A module is
    judged by F1 and the accuracy on the other classes, on images that its
    patch was not fitted on (cross-fitting), so that the best of many is not
    the luckiest. The classes are patched one after another, each on top of
    those before; one that is not weak any more by then is left as it is.

    Args:
        weak: The weak model, images to one score per class.
        donors: Where modules may be taken from. Those of a class fit the
            target of the same name.
        data: Validation `(images, labels)` or batched data; see `kmod.patch`.
        target_classes: Names or indices of the classes to patch. Defaults to
            the weak ones, by `weak_classes`, that a donor has.
        class_names: The weak model's classes. Defaults to its attribute
            `class_names`, or to `"0"`, `"1"`, ...
        combine: How the two scores become one.
        contract: The images, if the donors take others.
        alone: Whether to take the targets' modules only. Otherwise the other
            modules of a donor may support them, where that is better.
        track: Wraps the donors, such as in a progress bar.

    Returns:
        The `PatchChoice`, with at least one patch.

    Raises:
        ArtifactError: If no donor has a module of a class, or it can not take
            the images.
        CheckError: If no module helps.
        UsageError: If `data` or `target_classes` do not fit the weak model.
    """
    images, labels = to_arrays(data)
    logits = _logits(weak, images)
    class_names = class_names or getattr(weak, "class_names", None)
    class_names = class_names or list(map(str, range(logits.shape[1])))
    evaluation = evaluate_answers(labels, logits.argmax(axis=1), class_names)
    targets = _targets(target_classes, evaluation, donors)
    found = {
        donor: _answers(donor, images, contract) for donor in track(donors)
    }
    chosen, tried = [], []
    for target in targets:
        index = evaluation.class_names.index(target)
        check_labels(labels, index, logits.shape[1])
        if target_classes is None and not _is_weak(index, logits, labels):
            continue
        scores = _scores(logits, labels, index, found)
        ranked = _ranked(target, donors, scores, combine, contract, alone)
        tried += ranked
        best = ranked[0]
        if best.fit.helps:
            chosen.append(best)
            logits = _patched(best, scores, logits)
    if not chosen:
        raise _no_gain(tried)
    return PatchChoice(evaluation, tuple(chosen), tuple(tried))


def _is_weak(index, logits, labels):
    """Tells whether a class still is, after the patches so far."""
    names = [str(column) for column in range(logits.shape[1])]
    now = evaluate_answers(labels, logits.argmax(axis=1), names)
    return index in weak_classes(now)


def _logits(weak, images):
    model = rebuild(channel_graph(weak))
    return model.predict(images, batch_size=256, verbose=0)


def _targets(given, evaluation, donors):
    names = evaluation.class_names
    if given is None:
        asked = [names[index] for index in weak_classes(evaluation)]
    else:
        indices = [target_index(each, len(names), names) for each in given]
        asked = [names[index] for index in dict.fromkeys(indices)]
    known = [
        target
        for target in asked
        if any(donor.class_for(target) is not None for donor in donors)
    ]
    if not known or (given is not None and known != asked):
        missing = [target for target in asked if target not in known]
        raise ArtifactError(
            "A donor must have a module of the class to patch, of the same "
            f"name. Received: none of {missing} in "
            f"{[str(donor.store.path) for donor in donors]}, which have "
            f"{sorted({name for donor in donors for name in donor.store})}. "
            "Give another donor, or the class that fits as STORE:CLASS."
        )
    return known


def _answers(donor, images, contract):
    """Returns what all modules say, by class name."""
    return module_answers(
        donor.store,
        list(donor.store),
        images,
        donor.adaptation(contract),
    )


def _ranked(target, donors, scores, combine, contract, alone):
    """Tries every donor, with and without the support of its other modules."""
    candidates = []
    for donor in donors:
        name = donor.class_for(target)
        others = [each for each in donor.store if each != name]
        teams = [()] if alone or combine != "calibrated" else [(), others]
        for team in teams if name is not None else ():
            fit = fit_on_scores(
                scores(donor, name, team),
                donor.store[name],
                combine,
                donor.adaptation(contract),
                [donor.store[each] for each in team],
            )
            candidates.append(Candidate(target, donor, fit))
    return sorted(candidates, key=_merit, reverse=True)


def _merit(candidate):
    after = candidate.fit.after
    return candidate.fit.helps, after.f1 + after.other_accuracy


def _scores(logits, labels, index, found):
    """Returns what gives the scores of a donor's module and its team."""

    def scores(donor, name, team):
        answers = found[donor]
        support = [answers[each].log_odds for each in team]
        return Scores(
            logits,
            answers[name].log_odds,
            answers[name].raw,
            labels,
            index,
            np.stack(support, axis=1) if support else None,
        )

    return scores


def _patched(best, scores, logits):
    """Returns the scores that later patches start from."""
    patch = best.fit.patch
    if patch.layer is None:
        return logits
    name = patch.module.info.class_name
    team = [each.info.class_name for each in patch.support]
    given = scores(best.donor, name, team)
    return layer_scores(patch.layer, given).astype("float32")


def _no_gain(tried):
    lines = "; ".join(
        f"{each.target_class!r} by '{each.donor.store.path}': F1 "
        f"{each.fit.before.f1:.4f} before and {each.fit.after.f1:.4f} after, "
        f"the others' accuracy {each.fit.before.other_accuracy:.4f} and "
        f"{each.fit.after.other_accuracy:.4f}"
        for each in tried
    )
    return CheckError(
        "A patch must raise the F1 of its class on the validation data, "
        "without loss of accuracy on the other classes. Received: no module "
        f"that does. {lines}. Take a better donor, more validation images or "
        "another class."
    )
