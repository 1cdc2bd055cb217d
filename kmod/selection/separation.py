"""How well scores tell classes apart, alone and together."""

import itertools
from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from kmod.composition.scoring import line_of
from kmod.metrics.calibration import folds

MAX_ROUNDS = 5
FINALISTS = 3

Key = TypeVar("Key", bound=Hashable)
Team = tuple[int, ...]


def separation(scores: np.ndarray, is_class: np.ndarray) -> float:
    """Returns the chance that an image of the class has the higher score.

    Args:
        scores: Float array `(n,)`.
        is_class: Boolean array `(n,)`, which images show the class.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_class, scores))


def teams(
    log_odds: Mapping[int, np.ndarray], largest: int
) -> dict[Team, np.ndarray]:
    """Returns the scores of a class by every team of its modules.

    Args:
        log_odds: Each module's `(n,)`, by the index of its store.
        largest: Modules in a team, at most. Their odds are added.
    """
    return {
        team: np.logaddexp.reduce([log_odds[index] for index in team])
        for size in range(1, largest + 1)
        for team in itertools.combinations(log_odds, size)
    }


def best_columns(
    columns: Sequence[Mapping[Key, np.ndarray]], labels: np.ndarray
) -> list[Key]:
    """Chooses one column of scores for each class.

    Each class first takes the column that separates it best. Then classes
    take others of their `FINALISTS` best ones, one at a time, as long as the
    truth becomes likelier by the softmax of all, where every column is
    calibrated on other images.

    Args:
        columns: For every class the scores `(n,)` to choose among, by key.
        labels: int64 array `(n,)` of class indices.

    Returns:
        The key chosen for each class.
    """
    best_first = [
        sorted(own, key=lambda key: -separation(own[key], labels == label))
        for label, own in enumerate(columns)
    ]
    chosen = [keys[0] for keys in best_first]
    fitted = [
        {
            key: _cross_fitted(columns[label][key], labels == label)
            for key in keys[:FINALISTS]
        }
        for label, keys in enumerate(best_first)
    ]
    best = _likelihood(fitted, chosen, labels)
    for _ in range(MAX_ROUNDS):
        before = list(chosen)
        for label, own in enumerate(fitted):
            for key in own:
                tried = [*chosen[:label], key, *chosen[label + 1 :]]
                value = _likelihood(fitted, tried, labels)
                if value > best:
                    chosen, best = tried, value
        if chosen == before:
            break
    return chosen


def _cross_fitted(scores, is_class):
    """Returns log-odds, each by a line that was fitted without its image."""
    log_odds = np.empty(len(scores))
    for fold in folds(is_class.astype("int64")):
        scale, shift = line_of(scores[~fold], is_class[~fold])
        log_odds[fold] = scale * scores[fold] + shift
    return log_odds


def _likelihood(fitted, chosen, labels):
    """Returns the mean log-probability of the true classes."""
    scores = np.stack([own[key] for own, key in zip(fitted, chosen)], axis=1)
    own = scores[np.arange(len(labels)), labels]
    return float(np.mean(own - np.logaddexp.reduce(scores, axis=1)))
