"""How a patch is fitted: its weights, its threshold, and what it is worth."""

import dataclasses
import functools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Literal

import numpy as np

from kmod.composition.patched_model import Patch
from kmod.composition.plain_ways import MOST_WEIGHTS
from kmod.errors import UsageError
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import folds
from kmod.metrics.calibration import in_one_thread
from kmod.metrics.calibration import likeliest_penalty
from kmod.metrics.comparison import Comparison
from kmod.metrics.comparison import compare_answers
from kmod.metrics.comparison import compare_overall
from kmod.metrics.evaluate import ClassFigures
from kmod.metrics.evaluate import class_figures
from kmod.modules.adaptation import Adaptation
from kmod.modules.class_module import ClassModule
from kmod.patching.acceptance import Acceptance
from kmod.patching.donors import ModuleAnswers
from kmod.spec.model import WEAK_SHARE
from kmod.spec.model import PatchLayer

# Weights of the squared differences between classes, beside the sum of the
# cross-entropies of all images; features have a spread of 1. The second one is
# of what the modules' scores say of classes other than the target.
REGULARIZATION = 10.0
MODULE_REGULARIZATION = 3.0
# That are tried of a patch's `weak_share`.
WEAK_SHARES = tuple(number / 10 for number in range(11))
# Of the regression, beside what modules divide; of none is for few images.
SHARES = (0.0, 0.25, 0.5, 0.75)
# How many standard errors the recall and the others' accuracy shall be above
# the weak model's, because what just holds on these images does not on others.
CAUTION = 2.0
# What a point that recall and the others' accuracy lack of that costs, in
# points of F1.
RECALL_PENALTY = 3.0
OTHERS_PENALTY = 5.0
# Thresholds that are worse than the best one by no more than this are as good:
# the one that changes the fitted layer least is taken.
TOLERANCE = 0.03


@dataclasses.dataclass(frozen=True, eq=False)
class ValidationScores:
    """What the weak model and modules say of labelled images.

    Attributes:
        logits: Float array `(n, num_classes)` of the weak model.
        log_odds: Float array `(n, num_modules)`, the target's module first,
            then auxiliary ones.
        raw: Float array `(n,)` of the target's module, before its calibration.
        labels: int64 array `(n,)` in the weak model's classes.
        target: Index of the target class.
        others: Of the rule `divided`, the index of each auxiliary module's
            class.
        replaced: Float array `(n, num_classes)`, the weak model's answers in
            which earlier patches by `minmax` or `raw` have replaced columns;
            `None` if none has.
    """

    logits: np.ndarray
    log_odds: np.ndarray
    raw: np.ndarray
    labels: np.ndarray
    target: int
    others: tuple[int, ...] = ()
    replaced: np.ndarray | None = None

    @staticmethod
    def of(
        logits: np.ndarray,
        answers: Sequence[ModuleAnswers],
        labels: np.ndarray,
        target: int,
        others: Sequence[int] = (),
        replaced: np.ndarray | None = None,
    ) -> "ValidationScores":
        """Joins what the modules say, the target's first."""
        log_odds = np.column_stack([each.log_odds for each in answers])
        own = logits, log_odds, answers[0].raw, labels, target
        return ValidationScores(*own, tuple(others), replaced)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "ValidationScores":
        """Returns the scores of some of the images, by index or mask."""
        replaced = None if self.replaced is None else self.replaced[rows]
        return dataclasses.replace(
            self,
            logits=self.logits[rows],
            log_odds=self.log_odds[rows],
            raw=self.raw[rows],
            labels=self.labels[rows],
            replaced=replaced,
        )

    @functools.cached_property
    def is_target(self) -> np.ndarray:
        """Which images show the target class, boolean `(n,)`."""
        return self.labels == self.target

    @functools.cached_property
    def log_probabilities(self) -> np.ndarray:
        """The weak model's, float64 `(n, num_classes)`."""
        return _log_softmax(self.logits.astype("float64"))

    def divided(self, weak_share: float) -> "ValidationScores":
        """Returns these scores, the weak model's divided by the modules.

        Args:
            weak_share: As a `Patch` has it.
        """
        columns = [self.target, *self.others]
        weak = self.log_probabilities.copy()
        modules = _log_softmax(self.log_odds.astype("float64"))
        own, others = weak[:, columns], modules[:, 1:]
        whole = np.logaddexp.reduce(own, axis=1, keepdims=True)
        rest = np.logaddexp.reduce(others, axis=1, keepdims=True)
        ranks = weak_share * own[:, 1:] + (1 - weak_share) * others
        weak[:, columns[:1]] = whole + modules[:, :1]
        weak[:, columns[1:]] = whole + rest + _log_softmax(ranks)
        return dataclasses.replace(self, logits=weak)

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """What is answered before the patch, int64 `(n,)`."""
        given = self.logits if self.replaced is None else self.replaced
        return given.argmax(axis=1)

    def figures_of(self, predictions: np.ndarray) -> ClassFigures:
        """Measures answers for the target and for the other classes."""
        chosen = predictions == self.target
        figures = class_figures(
            np.sum(chosen & self.is_target),
            np.sum(chosen),
            np.sum(self.is_target),
            np.sum(predictions == self.labels),
            len(self),
        )
        return ClassFigures(*map(float, vars(figures).values()))


@dataclasses.dataclass(frozen=True, eq=False)
class PatchFit:
    """A fitted patch, and what it did on images it was not fitted on.

    Attributes:
        patch: The patch.
        comparisons: Of the weak and the patched model on the validation
            images, where every image was answered by weights that were fitted
            without it: a `Comparison` of each of the target's `ClassFigures`,
            of the `accuracy` and of `macro_f1`.
        answers: int64 array `(n,)`, what the patched model answered there.
        acceptance: What a patch must do to be taken.
    """

    patch: Patch
    comparisons: Mapping[str, Comparison]
    answers: np.ndarray
    acceptance: Acceptance = Acceptance()

    @property
    def before(self) -> ClassFigures:
        """Figures of the target by the weak model."""
        return self._of_class("before")

    @property
    def after(self) -> ClassFigures:
        """Figures of the target by the patched model."""
        return self._of_class("after")

    def _of_class(self, when):
        fields = dataclasses.fields(ClassFigures)
        return ClassFigures(
            *(getattr(self.comparisons[field.name], when) for field in fields)
        )

    @property
    def helps(self) -> bool:
        """Whether the patch is taken."""
        gains = {name: each.gain for name, each in self.comparisons.items()}
        return self.acceptance.takes(gains)

    def __str__(self) -> str:
        changes = [
            f"{words} {self.comparisons[name].before:.4f} before and "
            f"{self.comparisons[name].after:.4f} after"
            for words, name in (
                ("F1", "f1"),
                ("the others' accuracy", "other_classes_accuracy"),
                ("the accuracy over all", "accuracy"),
                ("the mean F1", "macro_f1"),
            )
        ]
        return ", ".join(changes)


def fit_on_scores(
    scores: ValidationScores,
    module: ClassModule,
    combine: Literal["calibrated", "divided", "minmax", "raw"] = "calibrated",
    adaptation: Adaptation = Adaptation(),
    auxiliary: Sequence[ClassModule] = (),
    acceptance: Acceptance = Acceptance(),
) -> PatchFit:
    """Fits a patch on what weak model and modules say of validation images.

    Args:
        scores: Scores of the images.
        module: The target's module.
        combine: How the scores become one.
        adaptation: How the weak model's images become the modules'.
        auxiliary: The auxiliary modules that the scores are of.
        acceptance: What a patch must do to be taken.

    Returns:
        The `PatchFit`, whether the patch helps or not.

    Raises:
        UsageError: If the rule `minmax` can not be fitted.
    """
    patch = Patch(
        scores.target,
        module,
        combine,
        auxiliary=tuple(auxiliary),
        others=scores.others,
        adaptation=adaptation,
    )
    patch = fit_rule(patch, scores)
    answers = scores.predictions, cross_predictions(patch, scores)
    comparisons = compare_answers(scores.labels, *answers, scores.target)
    comparisons |= compare_overall(scores.labels, *answers)
    return PatchFit(patch, comparisons, answers[1], acceptance)


def fit_rule(patch: Patch, scores: ValidationScores) -> Patch:
    """Returns the patch with what its rule takes, fitted on images.

    Args:
        patch: The patch. The layer that it may have is where the fit of
            another one begins.
        scores: Scores of the images.
    """
    if patch.combine == "calibrated":
        layer = fit_layer(scores, start=patch.layer)
        return dataclasses.replace(patch, layer=layer)
    if patch.combine == "divided":
        share = likeliest_weak_share(scores)
        layer = fit_divided(scores, share)
        return dataclasses.replace(patch, layer=layer, weak_share=share)
    if patch.combine == "minmax":
        return dataclasses.replace(patch, range=fit_range(scores))
    return patch


def patch_predictions(patch: Patch, scores: ValidationScores) -> np.ndarray:
    """Returns the answers of a patched model, int64 `(n,)`."""
    by_layer = patch.combine in ("calibrated", "divided")
    found = patched_scores if by_layer else replaced_answers
    return found(patch, scores).argmax(axis=1)


def replaced_answers(patch: Patch, scores: ValidationScores) -> np.ndarray:
    """Returns what is answered by `minmax` or `raw`, `(n, num_classes)`."""
    if patch.combine == "minmax":
        low, high = patch.range
        answers = (scores.raw - low) / (high - low)
    else:
        answers = np.exp(-np.logaddexp(0, -scores.log_odds[:, 0]))
    found = scores.replaced
    found = np.exp(scores.log_probabilities) if found is None else found.copy()
    found[:, scores.target] = answers
    return found


def patched_scores(patch: Patch, scores: ValidationScores) -> np.ndarray:
    """Returns the scores before the softmax, float array `(n, num_classes)`.

    Args:
        patch: A patch with a layer, or of the rule `divided`.
        scores: Scores of images.
    """
    given = scores
    if patch.combine == "divided":
        given = scores.divided(patch.weak_share)
    if patch.layer is None:
        return given.logits
    found = layer_scores(patch.layer, given)
    if patch.layer.undivided:
        found += scores.log_probabilities @ np.array(patch.layer.undivided)
    return found


def cross_predictions(patch: Patch, scores: ValidationScores) -> np.ndarray:
    """Answers for every image by a patch that was fitted without it.

    Returns:
        int64 array `(n,)`.
    """
    predictions = np.empty(len(scores), "int64")
    for fold in folds(scores.labels):
        fitted = fit_rule(patch, scores.take(~fold))
        predictions[fold] = patch_predictions(fitted, scores.take(fold))
    return predictions


def layer_scores(layer: PatchLayer, scores: ValidationScores) -> np.ndarray:
    """Returns the scores of a patch layer before its softmax."""
    return (
        np.asarray(layer.weak) * scores.log_probabilities
        + scores.log_odds @ np.array([layer.module, *layer.auxiliary])
        + np.asarray(layer.bias)
    )


def fit_range(scores: ValidationScores) -> tuple[float, float]:
    """Returns the smallest and largest raw score on images of the target.

    Raises:
        UsageError: If they are the same.
    """
    raw = scores.raw[scores.is_target]
    if raw.min() == raw.max():
        raise UsageError(
            "The rule `minmax` needs images of the target class with "
            f"different scores. Received: {len(raw)} of score {raw[0]}. Give "
            "more validation images."
        )
    return float(raw.min()), float(raw.max())


def fit_layer(
    scores: ValidationScores, start: PatchLayer | None = None
) -> PatchLayer:
    """Fits the layer of a patch on validation data.

    Multinomial logistic regression on the weak model's log-probabilities, one
    factor and bias for each class, and on the modules' log-odds. Differences
    between the classes are held small, so that a few images of each class do.
    The target's bias then moves to the threshold, chosen on images that the
    layer was not fitted on; see `choose_threshold`.

    Args:
        scores: Scores of validation images.
        start: A layer to begin with, fitted on nearly the same images, so
            that it takes less time.

    Returns:
        The `PatchLayer`. Whether it helps is the caller's question; see
        `PatchFit`.
    """
    layer = _regress(scores, start)
    values = np.empty(scores.logits.shape)
    for fold in folds(scores.labels):
        part = _regress(scores.take(~fold), layer)
        values[fold] = layer_scores(part, scores.take(fold))
    bias = np.array(layer.bias)
    bias[scores.target] += choose_threshold(values, scores)
    return dataclasses.replace(layer, bias=tuple(bias.tolist()))


def likeliest_weak_share(scores: ValidationScores) -> float:
    """Returns how much the weak model's ranking shall count in a division.

    That is as much as makes the labels likeliest, of `WEAK_SHARES`: little
    where the modules know their classes better than the weak model does, more
    where they don't. It is a single number, so few images tell it.

    Args:
        scores: Scores of validation images.

    Returns:
        The share, 0 to 1; the usual one if there are not two images of every
        class, or no two classes to rank.
    """
    counts = np.bincount(scores.labels, minlength=scores.logits.shape[1])
    if counts.min() < 2 or len(scores.others) < 2:
        return WEAK_SHARE

    def likelihood(share):
        found = scores.divided(share).log_probabilities
        return found[np.arange(len(found)), scores.labels].sum()

    return max(WEAK_SHARES, key=likelihood)


def fit_divided(
    scores: ValidationScores, weak_share: float
) -> PatchLayer | None:
    """Fits the layer behind the rule `divided` on validation data.

    What the modules divide is an answer without any label. The layer adds
    weights of the modules' log-odds and biases to it that are held small. A
    regression on what weak model and modules say needs more images, and errs
    elsewhere: the logarithms of both are mixed, in the share that makes images
    that neither was fitted on likeliest.

    Args:
        scores: Scores of validation images.
        weak_share: As a `Patch` has it.

    Returns:
        The `PatchLayer`, `None` if there are no images of some class.
    """
    counts = np.bincount(scores.labels, minlength=scores.logits.shape[1])
    if counts.min() == 0:
        return None
    start = scores.divided(weak_share).log_probabilities
    change = functools.partial(
        _fit_change,
        penalty=likeliest_penalty(scores.log_odds, scores.labels, start),
        weak_share=weak_share,
    )
    num_weights = _joined(scores).shape[1] * len(counts)
    if counts.min() == 1 or num_weights > MOST_WEIGHTS:
        return change(scores)
    regression = functools.partial(
        _fit_regression,
        penalty=likeliest_penalty(_joined(scores), scores.labels),
    )
    found = np.empty((2, *scores.logits.shape))
    for fold in folds(scores.labels):
        for values, fit in zip(found, (change, regression)):
            layer = fit(scores.take(~fold))
            part = scores.take(fold)
            values[fold] = _divided_scores(layer, part, weak_share)
    first, second = _log_softmax(found)

    def likelihood(share):
        mixed = _log_softmax((1 - share) * first + share * second)
        return mixed[np.arange(len(mixed)), scores.labels].sum()

    share = max(SHARES, key=likelihood)
    return _mixed(change(scores), regression(scores), share)


def _fit_change(scores, penalty, weak_share):
    """Fits small weights that are added to what modules divide."""
    start = scores.divided(weak_share).log_probabilities
    given = scores.log_odds.astype("float64"), scores.labels, start
    weights, bias = fit_scores(*given, penalty)
    module, *auxiliary = (tuple(row) for row in weights.tolist())
    weak = (1.0,) * len(bias)
    return PatchLayer(module, weak, tuple(bias.tolist()), tuple(auxiliary))


def _fit_regression(scores, penalty):
    """Fits a layer on what weak model and modules say, nothing divided."""
    given = _joined(scores), scores.labels
    weights, bias = fit_scores(*given, penalty=penalty)
    rows = [tuple(row) for row in weights.tolist()]
    undivided, (module, *auxiliary) = rows[: len(bias)], rows[len(bias) :]
    return PatchLayer(
        module,
        (0.0,) * len(bias),
        tuple(bias.tolist()),
        tuple(auxiliary),
        tuple(undivided),
    )


def _joined(scores):
    both = scores.log_probabilities, scores.log_odds.astype("float64")
    return np.concatenate(both, axis=1)


def _divided_scores(layer, scores, weak_share):
    patch = Patch(
        scores.target,
        None,
        "divided",
        others=scores.others,
        layer=layer,
        weak_share=weak_share,
    )
    return patched_scores(patch, scores)


def _mixed(change, regression, share):
    """Adds up two layers in shares; without the second it is the first."""
    if not share:
        return change

    def mix(name):
        first, second = (
            np.array(getattr(layer, name)) for layer in (change, regression)
        )
        mixed = (1 - share) * first + share * second
        return tuple(mixed.tolist())

    auxiliary = np.reshape(mix("auxiliary"), (len(change.auxiliary), -1))
    undivided = share * np.array(regression.undivided)
    return PatchLayer(
        *map(mix, ("module", "weak", "bias")),
        *(tuple(map(tuple, rows.tolist())) for rows in (auxiliary, undivided)),
    )


def _log_softmax(values):
    return values - np.logaddexp.reduce(values, axis=-1, keepdims=True)


@in_one_thread()
def _regress(scores, start=None):
    """Returns the layer of the least penalised cross-entropy.

    Args:
        scores: Scores of the images to fit on.
        start: A layer that is near it, from most of these images.
    """
    from scipy import optimize

    log_odds = scores.log_odds.astype("float64")
    spread = max(float(scores.log_probabilities.std()), 1e-6)
    reach = np.maximum(log_odds.std(axis=0), 1e-6)
    weak, modules = scores.log_probabilities / spread, log_odds / reach
    # Rows: the weak model's factors, those of every module, the biases.
    shape = len(reach) + 2, scores.logits.shape[1]
    penalties = np.full(shape, REGULARIZATION)
    penalties[1:-1] = MODULE_REGULARIZATION
    penalties[[1, -1], scores.target] = 0
    limits = np.full(shape, -np.inf)
    limits[0], limits[1, scores.target] = 0, 0
    units = np.array([spread, *reach, 1])[:, None]
    if start is None:
        first = np.zeros(shape)
        first[0] = 1
    else:
        rows = [start.weak, start.module, *start.auxiliary, start.bias]
        first = np.array(rows) * units
    found = optimize.minimize(
        _loss,
        first.ravel(),
        args=(weak, modules, np.eye(shape[1])[scores.labels], penalties),
        jac=True,
        method="L-BFGS-B",
        tol=1e-5,
        bounds=[(low, None) for low in limits.ravel()],
    )
    rows = found.x.reshape(shape) / units
    weak, module, *auxiliary, bias = (tuple(row) for row in rows.tolist())
    return PatchLayer(module, weak, bias, tuple(auxiliary))


def _loss(parameters, weak, modules, truth, penalties):
    """Returns the penalised sum of cross-entropies, and its gradient."""
    parameters = parameters.reshape(penalties.shape)
    factors, slopes, biases = parameters[0], parameters[1:-1], parameters[-1]
    values = factors * weak + modules @ slopes + biases
    sums = np.logaddexp.reduce(values, axis=1, keepdims=True)
    error = np.exp(values - sums) - truth
    gradient = np.concatenate(
        [
            np.sum(error * weak, axis=0, keepdims=True),
            modules.T @ error,
            error.sum(axis=0, keepdims=True),
        ]
    )
    held = np.concatenate([[factors - factors.mean()], parameters[1:]])
    total = np.sum(sums[:, 0] - np.sum(values * truth, axis=1))
    total += np.sum(penalties * held**2) / 2
    return total, (gradient + penalties * held).ravel()


def choose_threshold(values: np.ndarray, scores: ValidationScores) -> float:
    """Chooses from where on a patched model answers with the target class.

    That is where the F1 of the target and the accuracy on the other classes
    are highest together, less what recall and that accuracy lack of the weak
    model's and of `CAUTION` standard errors more; the errors are of pairs,
    since both models answer for the same images.

    Args:
        values: Float array `(n, num_classes)`, scores of images that they
            were not fitted on.
        scores: What weak model and modules say of these images.

    Returns:
        What to add to the target's scores, so that it is answered where they
        are the highest.
    """
    # Images are taken for the target one after another, the likeliest first;
    # every count is by how many are taken so far.
    target = scores.target
    rest = values.copy()
    rest[:, target] = -np.inf
    limits = rest.max(axis=1) - values[:, target]
    order = np.argsort(limits, kind="stable")
    own = scores.is_target[order]
    known = (scores.predictions == scores.labels)[order]
    right = (rest.argmax(axis=1) == scores.labels)[order] & ~own
    hits = _sums(own)
    figures = class_figures(
        hits,
        np.arange(len(order) + 1),
        own.sum(),
        hits + right.sum() - _sums(right),
        len(order),
    )
    recall_margin, others_margin = (
        _margin(images, right, own, known) for images in (own, ~own)
    )
    value = (
        figures.f1
        + figures.other_classes_accuracy
        - RECALL_PENALTY * np.maximum(-recall_margin, 0)
        - OTHERS_PENALTY * np.maximum(-others_margin, 0)
    )
    ends = np.concatenate([[-np.inf], limits[order], [np.inf]])
    good = np.flatnonzero(value >= value.max() - TOLERANCE)
    return min((_between(ends, index) for index in good), key=abs)


def _margin(images, right, own, known):
    """Accuracy on images above the weak model's, less the caution.

    Args:
        images: Boolean array, which images count.
        right: Which are answered right while they are not taken.
        own: Which are answered right once they are taken.
        known: Which the weak model answers right.
    """

    def count(left, taken):
        return left.sum() - _sums(left) + _sums(taken)

    gained = count(images & right, images & own) - np.sum(images & known)
    changed = count(images & (right ^ known), images & (own ^ known))
    return (gained - CAUTION * np.sqrt(changed)) / max(images.sum(), 1)


def _sums(flags):
    return np.concatenate([[0], np.cumsum(flags)])


def _between(ends, index):
    """A shift that takes the first images: none, or one in the middle."""
    low, high = ends[index], ends[index + 1]
    if low < 0 < high:
        return 0.0
    if np.isinf(low):
        return float(high - 1)
    return float(low + 1 if np.isinf(high) else (low + high) / 2)
