"""Searches the modules that patch the weak classes of a model."""

import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np

from kmod.composition.plain_ways import PlainWay
from kmod.data.batches import class_indices
from kmod.data.batches import common_class_names
from kmod.data.batches import to_arrays
from kmod.data.streaming import predict
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.metrics.comparison import is_as_good
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.evaluate import weak_classes
from kmod.modular.modular_model import checked_names
from kmod.modules.manifest import InputContract
from kmod.patching.acceptance import MAX_LOSS
from kmod.patching.acceptance import Acceptance
from kmod.patching.donors import Donor
from kmod.patching.donors import module_answers
from kmod.patching.patch_fit import PatchFit
from kmod.patching.patch_fit import ValidationScores
from kmod.patching.patch_fit import fit_on_scores
from kmod.patching.patch_fit import patched_scores
from kmod.patching.patch_fit import replaced_answers
from kmod.patching.patcher import check_labels
from kmod.patching.patcher import check_rule
from kmod.patching.patcher import target_index
from kmod.patching.plain_ways import plain_ways

# Of the source's multiply-accumulates, what heads of its modules may add.
HEADS = 1.01
# Auxiliary modules that are tried one by one, since the last that was better.
PATIENCE = 2
# What a patch changes beside its own class.
_SHOWN_GAINS = ("other_classes_accuracy", "accuracy", "macro_f1")


@dataclasses.dataclass(frozen=True, eq=False)
class PatchCandidate:
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
            "store": self.donor.store.place,
            "class": self.fit.patch.module.info.class_name,
            "combine": self.fit.patch.combine,
            "auxiliary": [m.info.class_name for m in self.fit.patch.auxiliary],
            "before": dataclasses.asdict(self.fit.before),
            "after": dataclasses.asdict(self.fit.after),
            "gains": {
                name: {
                    "gain": each.gain,
                    "gain_interval": list(each.gain_interval),
                }
                for name, each in self.fit.comparisons.items()
                if name in _SHOWN_GAINS
            },
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
        plain: What else a user could do, with the donors that were chosen.
    """

    evaluation: Evaluation
    chosen: tuple[PatchCandidate, ...]
    tried: tuple[PatchCandidate, ...]
    plain: tuple[PlainWay, ...]

    def is_as_good(self, way: PlainWay) -> bool:
        """Tells whether a plain way is as good as the patches there.

        Args:
            way: One of `plain`; see `kmod.metrics.comparison.is_as_good`.
        """
        fit = self.chosen[-1].fit
        judge = fit.acceptance.judge
        return is_as_good(way.evaluation, fit.answers, judge)


class NoPatchError(CheckError):
    """No module helps.

    Attributes:
        choice: What was tried, and what needs no patch; nothing is chosen.
    """

    def __init__(self, message: str, choice: PatchChoice):
        super().__init__(message)
        self.choice = choice


def choose_patches(
    weak: keras.Model,
    donors: Sequence[Donor],
    data: Any,
    *,
    target_classes: Sequence[int | str] | None = None,
    class_names: Sequence[str] | None = None,
    combine: Literal["calibrated", "divided", "minmax", "raw"] | None = None,
    contract: InputContract | None = None,
    auxiliary: bool = True,
    output: str | None = None,
    judge: Literal["accuracy", "macro_f1"] = "accuracy",
    max_loss: float = MAX_LOSS,
    track: Callable[[Sequence[Donor]], Iterable[Donor]] = iter,
) -> PatchChoice:
    """Chooses the modules that patch a weak model, on validation data.

    The weak model and every module run once over the images. A module is
    judged by F1, the accuracy on the other classes and what all classes gain,
    on images that its patch was not fitted on (cross-fitting), so that the
    best of many is not the luckiest. The classes are patched one after
    another, each on top of those before; one that is not weak any more by
    then is left as it is.

    Args:
        weak: The weak model, images to one score per class.
        donors: Where modules may be taken from. Those of a class fit the
            target of the same name.
        data: Validation `(images, labels)` or batched data; see `kmod.patch`.
        target_classes: Names or indices of the classes to patch. Defaults to
            the weak ones, by `weak_classes`, that a donor has.
        class_names: The weak model's classes. Defaults to its attribute
            `class_names`, to those of the data, or to `"0"`, `"1"`, ...
        combine: How the two scores become one. Defaults to the better of
            `calibrated` and `divided`; the latter takes donors that have
            another class of the weak model.
        contract: The images, if the donors take others.
        auxiliary: Whether a donor's other modules may be auxiliary to the
            target's, where that is better; it makes the model larger. Those
            of the classes that the weak model confuses most with the target
            come first, one by one while what is judged rises, as many as cost
            no more than the donor's source.
        output: Name of the weak model's output to take, of several.
        judge: What must not fall over all classes: the accuracy, or the mean
            F1, in which every class counts alike.
        max_loss: How much accuracy on the other classes a patch may cost, 0
            to 1.
        track: Wraps the donors, such as in a progress bar.

    Returns:
        The `PatchChoice`, with at least one patch.

    Raises:
        ArtifactError: If no donor has a module of a class, or it can not take
            the images.
        NoPatchError: If no module helps, a `CheckError`.
        UsageError: If `data`, `target_classes` or `class_names` do not fit
            the weak model, or `combine`, `judge` or `max_loss` are none.
        ValueError: If labels are not of the weak model's classes.
    """
    acceptance = Acceptance(judge, max_loss)
    if combine is not None:
        check_rule(combine)
    images, labels = to_arrays(data)
    model = rebuild(channel_graph(weak, output, images.shape[1:]))
    num_classes = model.output_shape[1]
    class_indices(labels, num_classes)
    class_names = class_names or getattr(weak, "class_names", None)
    class_names = common_class_names(class_names, data)
    class_names = checked_names(class_names, num_classes)
    adaptations = {donor: donor.adaptation(contract) for donor in donors}
    logits = predict(model, images)
    evaluation = evaluate_answers(labels, logits.argmax(axis=1), class_names)
    targets = _targets(target_classes, evaluation, donors)
    for target in targets:
        check_labels(labels, class_names.index(target), num_classes)
    found = {
        donor: _answers(donor, images, adaptations[donor])
        for donor in track(donors)
    }
    chosen, best_donors, tried, replaced = [], [], [], None
    for target in targets:
        index = class_names.index(target)
        if target_classes is None:
            answers = logits if replaced is None else replaced
            now = evaluate_answers(labels, answers.argmax(axis=1), class_names)
            if index not in weak_classes(now):
                continue
        given = found, logits, replaced, labels, index
        scores_of = functools.partial(_scores, *given)
        given = adaptations, scores_of, combine, auxiliary, acceptance
        ranked = _ranked(target, class_names, *given)
        ranked = _divided_first(ranked, labels, class_names, judge)
        tried += ranked
        best = ranked[0]
        if best.donor not in best_donors:
            best_donors.append(best.donor)
        if best.fit.helps:
            chosen.append(best)
            logits, replaced = _patched(best, scores_of, logits)
    indices = [class_names.index(target) for target in targets]
    plain = plain_ways(
        *(model, adaptations, best_donors),
        *(images, labels, class_names, indices),
    )
    choice = PatchChoice(evaluation, tuple(chosen), tuple(tried), tuple(plain))
    if not chosen:
        received = "; ".join(
            f"{each.target_class!r} by '{each.donor.store.place}': {each.fit}"
            for each in tried
        )
        others = "; ".join(
            f"{way.name}: F1 of the class "
            f"{way.evaluation.f1[indices].mean():.4f}, accuracy over all "
            f"{way.evaluation.accuracy:.4f}"
            for way in plain
        )
        refusal = acceptance.refusal(
            f"no module that does. {received}. On the same images, without a "
            f"patch: {others}"
        )
        raise NoPatchError(str(refusal), choice)
    return choice


def _targets(given, evaluation, donors):
    names = evaluation.class_names
    if given is None:
        indices = weak_classes(evaluation)
    else:
        indices = [
            target_index(each, len(names), names, "target_classes")
            for each in given
        ]
    wanted = [names[index] for index in dict.fromkeys(indices)]
    known = [
        target
        for target in wanted
        if any(donor.class_for(target) is not None for donor in donors)
    ]
    if not known or (given is not None and known != wanted):
        missing = [target for target in wanted if target not in known]
        raise ArtifactError(
            "A donor must have a module of the class to patch, of the same "
            f"name. Received: none of {missing} in "
            f"{[donor.store.place for donor in donors]}, which have "
            f"{sorted({name for donor in donors for name in donor.store})}. "
            "Give another donor, or the class that fits as STORE:CLASS."
        )
    return known


def _answers(donor, images, adaptation):
    """Returns what all modules of a donor say, by class name."""
    modules = [donor.store[name] for name in donor.store]
    return dict(zip(donor.store, module_answers(modules, images, adaptation)))


def _scores(
    found, logits, replaced, labels, index, donor, class_names, others=()
):
    """Returns the scores of modules of a donor, the target's first."""
    answers = [found[donor][name] for name in class_names]
    given = logits, answers, labels, index
    return ValidationScores.of(*given, others, replaced)


def _ranked(
    target,
    class_names,
    adaptations,
    scores_of,
    combine,
    auxiliary,
    acceptance,
):
    """Tries every donor by every rule that it allows, the best first."""
    candidates = []
    for donor, adaptation in adaptations.items():
        name = donor.class_for(target)
        if name is None:
            continue
        alone = scores_of(donor, [name])
        others = [each for each in donor.store if each != name]
        others = _most_confused_first(alone, others, class_names)
        rest = _affordable(donor.store, name, others) if auxiliary else []

        def fitted(rule, others):
            known = others if rule == "divided" else []
            indices = tuple(map(class_names.index, known))
            fit = fit_on_scores(
                scores_of(donor, [name, *others], indices),
                donor.store[name],
                rule,
                adaptation,
                [donor.store[each] for each in others],
                acceptance,
            )
            return PatchCandidate(target, donor, fit)

        if combine != "divided":
            more = rest if combine in ("calibrated", None) else []
            groups = [[], *_growing(donor.store, name, more)]
            tried = (fitted(combine or "calibrated", own) for own in groups)
            candidates += _while_it_pays(tried, acceptance.judge)
        if combine in ("divided", None):
            known = [c for c in rest if c in class_names and c != target]
            groups = _growing(donor.store, name, known)
            tried = (fitted("divided", own) for own in groups)
            candidates += _while_it_pays(tried, acceptance.judge)
    if not candidates:
        raise UsageError(
            "The rule `divided` takes a donor that has other classes of the "
            "weak model, whose modules together cost no more than its source. "
            f"Received: {target!r} alone. Give another donor, such as a model "
            "as it is (`kmod import`), or leave `combine` out."
        )
    quality = functools.partial(_quality, judge=acceptance.judge)
    return sorted(candidates, key=quality, reverse=True)


def _while_it_pays(candidates, judge):
    """Passes candidates on until some in a row are no better than before."""
    best, since = -math.inf, 0
    for candidate in candidates:
        yield candidate
        value = candidate.fit.comparisons[judge].after
        since = 0 if value > best else since + 1
        if since == PATIENCE:
            return
        best = max(best, value)


def _divided_first(ranked, labels, class_names, judge):
    """Prefers what modules divide, where it is as good within an error.

    That is an answer without a label already, so labels tell less of it by
    chance than of a layer that is all fitted.
    """
    best, *others = ranked
    divided = (
        each
        for each in ranked
        if each.fit.patch.combine == "divided"
        and each.fit.helps
        and each.donor is best.donor
    )
    first = next(divided, best)
    if first is best:
        return ranked
    found = evaluate_answers(labels, first.fit.answers, class_names)
    if not is_as_good(found, best.fit.answers, judge):
        return ranked
    others.remove(first)
    return [first, best, *others]


def _most_confused_first(scores, names, class_names):
    """Sorts classes by how much the weak model takes them for the target."""
    chances, target = np.exp(scores.log_probabilities), scores.target
    own = chances[scores.is_target].mean(axis=0)

    def confusion(name):
        if name not in class_names:
            return 0.0
        index = class_names.index(name)
        shown = scores.labels == index
        back = chances[shown, target].mean() if shown.any() else 0.0
        return own[index] + back

    return sorted(names, key=confusion, reverse=True)


def _affordable(store, name, others):
    """Keeps those whose modules cost, with the target's, what the source does.

    More than the source would be paid for less than it knows.
    """
    metrics = store.manifest.metrics
    stem = metrics.get("stem", {}).get("macs", 0)
    spent = store.sizes(name).macs
    source = metrics.get("before", {}).get("macs", math.inf)
    limit, kept = HEADS * max(source, spent), []
    for other in others:
        more = store.sizes(other).macs - stem
        if spent + more <= limit:
            kept.append(other)
            spent += more
    return kept


def _growing(store, name, others):
    """Lists growing groups of auxiliary modules, all at once if they are free.

    They are if they share all that costs anything with the target's.
    """
    stem = store.manifest.metrics.get("stem", {}).get("macs", 0)
    more = sum(store.sizes(other).macs - stem for other in others)
    is_free = more <= (HEADS - 1) * store.sizes(name).macs
    counts = range(len(others) if is_free else 1, len(others) + 1)
    return [others[:count] for count in counts if count]


def _quality(candidate, judge):
    """Sorts by what is judged over all classes, which few images tell.

    The F1 of one class is of fewer images still, so it decides among equals.
    """
    fit = candidate.fit
    return fit.helps, fit.comparisons[judge].after, fit.after.f1


def _patched(best, scores_of, logits):
    """Returns scores and replaced answers that later patches start from."""
    patch = best.fit.patch
    names = [module.info.class_name for module in patch.parts.values()]
    scores = scores_of(best.donor, names, patch.others)
    if patch.combine in ("minmax", "raw"):
        return logits, replaced_answers(patch, scores)
    return patched_scores(patch, scores).astype("float32"), None
