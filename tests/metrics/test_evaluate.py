import json

import keras
import numpy as np
import pytest

from kmod.metrics.evaluate import evaluate
from kmod.metrics.evaluate import predict_scores

# Scores are the three pixels themselves.
MODEL = keras.Sequential([keras.Input((1, 1, 3)), keras.layers.Flatten()])
TRUE = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 1])
IMAGES = np.eye(3, dtype="float32")[PREDICTED].reshape(-1, 1, 1, 3)


@pytest.fixture
def evaluation():
    return evaluate(MODEL, (IMAGES, TRUE), ["a", "b", "c"], batch_size=4)


def test_figures_by_class(evaluation):
    assert evaluation.accuracy == pytest.approx(4 / 6)
    np.testing.assert_allclose(evaluation.precision, [1, 2 / 4, 0])
    np.testing.assert_allclose(evaluation.recall, [2 / 3, 1, 0])
    np.testing.assert_allclose(evaluation.f1, [4 / 5, 2 / 3, 0])
    assert evaluation.support.tolist() == [3, 2, 1]
    assert evaluation.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 1, 0]]


def test_accuracy_on_others_leaves_the_class_out(evaluation):
    assert evaluation.accuracy_on_others(0) == pytest.approx(2 / 3)
    assert evaluation.accuracy_on_others(2) == pytest.approx(4 / 5)


def test_accuracy_on_others_without_others():
    alone = evaluate(MODEL, (IMAGES[:2], TRUE[:2]))
    assert alone.accuracy_on_others(0) == 0


def test_as_dict_is_json(evaluation):
    data = json.loads(json.dumps(evaluation.as_dict()))
    assert data["accuracy"] == pytest.approx(4 / 6)
    assert list(data["classes"]) == ["a", "b", "c"]
    assert data["classes"]["b"] == {
        "precision": pytest.approx(0.5),
        "recall": pytest.approx(1.0),
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }


def test_names_default_to_indices():
    assert evaluate(MODEL, (IMAGES, TRUE)).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        pytest.param(TRUE, ["a", "b"], "3 scores, 2 class names", id="names"),
        pytest.param(TRUE + 1, None, "labels up to 3. Evaluate", id="labels"),
    ],
)
def test_labels_and_names_must_fit_the_model(labels, names, message):
    with pytest.raises(ValueError, match=message):
        evaluate(MODEL, (IMAGES, labels), names)


def test_predict_scores_in_batches():
    scores = predict_scores(MODEL, IMAGES, batch_size=4)
    np.testing.assert_array_equal(scores, IMAGES.reshape(-1, 3))
    assert scores.dtype == np.float32
