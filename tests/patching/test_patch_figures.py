import numpy as np
import pytest

from kmod.patching.patch_figures import Scores
from kmod.patching.patch_figures import figures_of
from kmod.patching.patch_figures import layer_predictions
from kmod.patching.patch_figures import layer_scores
from kmod.patching.patch_figures import minmax_predictions
from kmod.patching.patch_figures import raw_predictions
from kmod.spec.model import PatchLayer

# Three classes, the target is 2. The weak model takes image 3 for class 0.
LOGITS = np.array(
    [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 3.0], [3.0, 1.0, 1.0]]
)
LABELS = np.array([0, 1, 2, 2])


def scores_with(log_odds, raw=None):
    log_odds = np.array(log_odds)
    raw = log_odds if raw is None else np.array(raw)
    return Scores(LOGITS, log_odds, raw, LABELS, 2)


def test_figures_by_hand():
    scores = scores_with([0.0] * 4)
    figures = figures_of(scores.predictions, scores)
    assert scores.predictions.tolist() == [0, 1, 2, 0]
    assert (figures.precision, figures.recall) == (1, 1 / 2)
    assert (figures.f1, figures.other_accuracy) == (pytest.approx(2 / 3), 1)


def test_figures_of_a_target_that_is_never_answered():
    scores = scores_with([0.0] * 4)
    figures = figures_of(np.zeros(4, "int64"), scores)
    assert (figures.precision, figures.recall, figures.f1) == (0, 0, 0)
    assert figures.other_accuracy == 1 / 2


def test_log_probabilities_are_those_of_the_softmax():
    powers = np.exp(LOGITS)
    np.testing.assert_allclose(
        np.exp(scores_with([0.0] * 4).log_probabilities),
        powers / powers.sum(axis=1, keepdims=True),
    )


def test_layer_by_hand():
    scores = scores_with([-1.0, 0.0, 2.0, 4.0])
    layer = PatchLayer((0.0, 0.5, 1.0), (1.0, 2.0, 0.0), (0.0, 0.0, -1.0))
    values = layer_scores(layer, scores)
    own = scores.log_probabilities
    np.testing.assert_allclose(values[:, 0], own[:, 0])
    np.testing.assert_allclose(values[:, 1], 2 * own[:, 1] + [-0.5, 0, 1, 2])
    np.testing.assert_allclose(values[:, 2], [-2, -1, 1, 3])
    predictions = layer_predictions(layer, scores)
    assert predictions.tolist() == values.argmax(axis=1).tolist()


def test_published_rules_replace_the_probability():
    # The weak model gives 0.91 to class 0, 0.91 to class 1, 0.84 to its own.
    answers = np.array([0.9, 0.92, 0.8, 0.9])
    log_odds = np.log(answers / (1 - answers))
    scores = scores_with(log_odds, raw=10 * answers - 5)
    assert raw_predictions(scores).tolist() == [0, 2, 2, 2]
    assert minmax_predictions((-5.0, 5.0), scores).tolist() == [0, 2, 2, 2]


def test_part_of_the_images():
    part = scores_with([0.0, 1.0, 2.0, 3.0]).take(np.array([3, 1]))
    assert len(part) == 2
    assert part.labels.tolist() == [2, 1]
    assert part.log_odds.tolist() == [3, 1]
    np.testing.assert_array_equal(part.logits, LOGITS[[3, 1]])
