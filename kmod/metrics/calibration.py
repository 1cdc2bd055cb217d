"""Fits that turn scores into log-odds, each once."""

import contextlib
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

FOLDS = 5
# Weight of half the squared weights, beside the sum of all cross-entropies.
PENALTY = 3.0
DECIMALS = 6  # Of shifts; float32 has no more.
PENALTIES = (0.3, 1.0, PENALTY, 10.0)
# The same where a layer changes an answer that is there already.
PENALTY_OF_CHANGE = 100.0
PENALTIES_OF_CHANGE = (3.0, 10.0, 30.0, PENALTY_OF_CHANGE, 300.0)

LEAST_SHARE = 0.1  # Of an even share.
MOST_ROUNDS = 200

Layer = tuple[np.ndarray, np.ndarray]


def fit_platt(
    scores: np.ndarray, is_class: np.ndarray
) -> tuple[float, float] | None:
    """Fits the log-odds of a class as a line over its score (Platt scaling).

    Args:
        scores: Scores `(n,)`.
        is_class: Boolean `(n,)`, whether the image is of the class.

    Returns:
        Tuple `(scale, shift)`, the scale above 0; `None` if the images do not
        show both kinds or the scores do not rise with the class.

    Reference:

    - Platt, 1999, "Probabilistic outputs for support vector machines".
    """
    from sklearn.linear_model import LogisticRegression

    if is_class.all() or not is_class.any():
        return None
    spread = max(float(scores.std()), 1e-6)
    fitted = LogisticRegression().fit(scores[:, None] / spread, is_class)
    scale = float(fitted.coef_[0, 0]) / spread
    return (scale, float(fitted.intercept_[0])) if scale > 0 else None


def logit(share: float) -> float:
    """Returns the log-odds of a probability above 0 and below 1."""
    return math.log(share) - math.log1p(-share)


def prior_shifts(
    shares: Sequence[float | None],
    wanted: Sequence[float] | None = None,
    score_of: Callable[[float], float] = logit,
) -> list[float]:
    """Returns what to add to scores so that classes are as frequent as wanted.

    A calibrated score speaks for its class the more, the more frequent the
    class was among the images that it was calibrated on: by the log-odds of
    that share. Where the shares are all the same, nothing needs to be added.

    Args:
        shares: For each score the share of its class among those images, above
            0 and below 1; `None` where it is not known.
        wanted: The share that each class shall have. Defaults to all alike,
            with scores as high on average as they are.
        score_of: How much a share counts: `logit` for log-odds of every class
            by itself, `math.log` for scores of a softmax over all.

    Returns:
        A shift for each score, 0 where its share is not known.

    Reference:

    - [Saerens et al., 2002](https://doi.org/10.1162/089976602753284446)
    """
    found = [share and score_of(share) for share in shares]
    known = [score for score in found if score is not None]
    if wanted is None:
        level = [sum(known) / max(len(known), 1)] * len(found)
    else:
        level = [score_of(share) for share in wanted]
    return [
        0.0 if score is None else round(goal - score, DECIMALS)
        for goal, score in zip(level, found, strict=True)
    ]


def shares_without_labels(probabilities: np.ndarray) -> np.ndarray:
    """Estimates how frequent classes are among unlabelled images.

    A classifier's probabilities take all classes to be alike in number. Those
    under other shares follow from them, and their mean are the shares again:
    the two are found in turns (expectation maximisation).

    Args:
        probabilities: Float array `(n, num_classes)`, of a classifier that
            takes classes to be equally frequent.

    Returns:
        Float array `(num_classes,)`, which adds up to 1. No class gets less
        than a tenth of an even share.

    Reference:

    - [Saerens et al., 2002](https://doi.org/10.1162/089976602753284446),
      equation 2.9
    """
    num_classes = probabilities.shape[1]
    shares = np.full(num_classes, 1 / num_classes)
    for _ in range(MOST_ROUNDS):
        weighed = probabilities * shares
        weighed /= np.maximum(weighed.sum(axis=1, keepdims=True), 1e-30)
        found = np.maximum(weighed.mean(axis=0), LEAST_SHARE / num_classes)
        found /= found.sum()
        change, shares = np.abs(found - shares).max(), found
        if change < 1e-6:
            break
    return shares


def fit_scores(
    scores: np.ndarray,
    labels: np.ndarray,
    start: np.ndarray | None = None,
    penalty: float | None = None,
) -> Layer:
    """Fits a multinomial logistic regression on the scores of all classes.

    A class's own score is not all that tells it from the others: that the cat
    module is unsure speaks for a dog, too. Weights are held small, with
    scores of a spread of 1, so that tens of images of each class are enough.
    How small, is what makes images that the layer was not fitted on likeliest.

    Args:
        scores: Float array `(n, num_scores)`.
        labels: int64 array `(n,)` of class indices; each class has images.
        start: Float array `(n, num_classes)` that is added to what the layer
            answers, so that with weights held small it changes little.
            Defaults to none.
        penalty: As in `likelihood`. Defaults to the `likeliest_penalty`.

    Returns:
        float32 weights `(num_scores, num_classes)`, one column for each
        class's new score, and biases `(num_classes,)`.
    """
    if penalty is None:
        penalty = likeliest_penalty(scores, labels, start)
    return _fit(scores, labels, penalty, start)


def likeliest_penalty(
    scores: np.ndarray, labels: np.ndarray, start: np.ndarray | None = None
) -> float:
    """Returns the penalty of the highest `likelihood`.

    Where a class has a single image nothing can be compared, and it is as
    usual.
    """
    usual, penalties = PENALTY, PENALTIES
    if start is not None:
        usual, penalties = PENALTY_OF_CHANGE, PENALTIES_OF_CHANGE
    if np.bincount(labels).min() < 2:
        return usual
    return max(penalties, key=lambda p: likelihood(scores, labels, p, start))


def best_likelihood(
    scores: np.ndarray, labels: np.ndarray, start: np.ndarray | None = None
) -> float:
    """Returns the `likelihood` of a layer that is held as small as usual."""
    penalty = PENALTY if start is None else PENALTY_OF_CHANGE
    return likelihood(scores, labels, penalty, start)


def likelihood(
    scores: np.ndarray,
    labels: np.ndarray,
    penalty: float = PENALTY,
    start: np.ndarray | None = None,
) -> float:
    """Returns the mean log-probability of the true classes.

    Every image's is by a layer that was fitted on other images.

    Args:
        scores: Float array `(n, num_scores)`.
        labels: int64 array `(n,)` of class indices, at least two of each.
        penalty: Weight of half the squared weights, beside the sum of all
            images' cross-entropies.
        start: As in `fit_scores`.
    """
    own = np.empty(len(labels))
    if start is None:
        start = np.zeros(1)
    start = np.broadcast_to(start, (len(labels), start.shape[-1]))
    for fold in folds(labels):
        given = start[~fold] if start.shape[-1] > 1 else None
        weights, bias = _fit(scores[~fold], labels[~fold], penalty, given)
        found = start[fold] + scores[fold] @ weights + bias
        truth = found[np.arange(len(found)), labels[fold]]
        own[fold] = truth - np.logaddexp.reduce(found, axis=1)
    return float(own.mean())


def folds(labels: np.ndarray) -> list[np.ndarray]:
    """Splits images in `FOLDS` parts that show all classes alike.

    Returns:
        Boolean arrays `(n,)`, one for each part.
    """
    random = np.random.default_rng(0)
    order = np.lexsort((random.random(len(labels)), labels))
    number = np.empty(len(labels), "int64")
    number[order] = np.arange(len(labels)) % FOLDS
    return [number == fold for fold in range(FOLDS)]


@contextlib.contextmanager
def in_one_thread() -> Iterator[None]:
    """Keeps matrix products in one thread, where small ones are quicker."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _libraries():
    import sklearn.linear_model  # noqa: F401  Those it loads must be there.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@in_one_thread()
def _fit(scores, labels, penalty, start=None):
    from sklearn.linear_model import LogisticRegression

    # Centred scores give the same layer in a tenth of the iterations.
    middle, spread = scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-6)
    if start is not None:
        centred = (scores - middle) / spread
        weights, bias = _fit_change(centred, labels, penalty, start)
        weights = weights / spread[:, None]
        bias = bias - (middle[:, None] * weights).sum(axis=0)
        return weights.astype("float32"), bias.astype("float32")
    fitted = LogisticRegression(C=1 / penalty, max_iter=1000)
    fitted.fit((scores - middle) / spread, labels)
    weights, bias = fitted.coef_, fitted.intercept_
    if len(bias) == 1:  # Of two classes it is the second one's log-odds.
        weights = np.concatenate([-weights, weights]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    weights = weights / spread
    # Matrix products of so few numbers may warn of NaN where there is none.
    bias = bias - (weights * middle).sum(axis=1)
    return weights.T.astype("float32"), bias.astype("float32")


def _fit_change(scores, labels, penalty, start):
    """Fits weights and biases of what is added to `start`, both held small."""
    from scipy.optimize import minimize

    inputs = np.concatenate([scores, np.ones((len(scores), 1))], axis=1)
    inputs, shape = inputs.astype("float64"), (inputs.shape[1], start.shape[1])
    truth = np.eye(start.shape[1])[labels]

    def loss(flat):
        weights = flat.reshape(shape)
        found = start + inputs @ weights
        found -= np.logaddexp.reduce(found, axis=1, keepdims=True)
        slope = inputs.T @ (np.exp(found) - truth) + penalty * weights
        held = penalty / 2 * np.sum(weights**2)
        return held - np.sum(found * truth), slope.ravel()

    fitted = minimize(
        loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B"
    )
    weights = fitted.x.reshape(shape)
    return weights[:-1], weights[-1]
