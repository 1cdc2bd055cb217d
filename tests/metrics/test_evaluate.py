import dataclasses
import json
import time

import keras
import numpy as np
import pytest
from sklearn import metrics

from kmod.errors import ArtifactError
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import auroc_of_unseen
from kmod.metrics.evaluate import confusions
from kmod.metrics.evaluate import evaluate
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.evaluate import warn_of_rare_classes
from kmod.metrics.evaluate import weak_classes
from kmod.metrics.evaluate import worst_confusion

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


def test_figures_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    labels, answers = random.integers(0, [[4], [5]], (2, 300))
    found = evaluate_answers(labels, answers, tuple("abcdef"))
    expected = metrics.precision_recall_fscore_support(
        labels, answers, labels=range(6), zero_division=0
    )
    figures = found.precision, found.recall, found.f1, found.support
    np.testing.assert_allclose(figures, expected)


def test_accuracy_on_others_leaves_the_class_out(evaluation):
    np.testing.assert_allclose(
        evaluation.other_classes_accuracy, [2 / 3, 2 / 4, 4 / 5]
    )


def test_accuracy_on_others_without_others():
    alone = evaluate(MODEL, (IMAGES[:2], TRUE[:2]))
    assert alone.other_classes_accuracy[0] == 0


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


@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
def test_one_score_is_that_of_the_second_class(activation):
    image = keras.Input((1, 1, 1))
    flat = keras.layers.Flatten()(image)
    dense = keras.layers.Dense(1, activation=activation)
    model = keras.Model(image, dense(flat))
    dense.set_weights([np.array([[4.0]]), np.array([-1.0])])
    images = np.array([0, 0.2, 0.3, 1], "float32").reshape(-1, 1, 1, 1)
    found = evaluate(model, (images, np.array([0, 0, 1, 0])), ["no", "yes"])
    assert found.confusion.tolist() == [[2, 1], [0, 1]]


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


NAMES = ("cat", "dog", "ship")


@pytest.fixture
def confused():
    # Cats: 1 of 4 right, 2 taken for dogs, 1 for a ship. Ships: 1 of 10 is
    # taken for a dog. Dogs are all right.
    labels = np.repeat([0, 1, 2], [4, 2, 10])
    answers = np.array([0, 1, 1, 2, 1, 1, *[2] * 9, 1])
    return evaluate_answers(labels, answers, NAMES)


def test_confusions_come_worst_first(confused):
    found = json.loads(json.dumps(confusions(confused)))
    assert found == [
        {"class": "cat", "taken_for": "dog", "images": 2, "share": 0.5},
        {"class": "cat", "taken_for": "ship", "images": 1, "share": 0.25},
        {"class": "ship", "taken_for": "dog", "images": 1, "share": 0.1},
    ]


@pytest.mark.parametrize(
    ("class_name", "words"),
    [
        ("cat", "taken for 'dog' 50 %"),
        ("dog", "'cat' taken for it 50 %"),
        ("ship", "'cat' taken for it 25 %"),
    ],
)
def test_worst_confusion_in_words(confused, class_name, words):
    assert worst_confusion(confused, class_name) == words


def test_worst_confusion_of_many_classes_is_the_first_of_the_list():
    labels, answers = np.random.default_rng(0).integers(0, 200, (2, 20_000))
    found = evaluate_answers(labels, answers, tuple(map(str, range(200))))
    start = time.process_time()
    words = {name: worst_confusion(found, name) for name in found.class_names}
    assert time.process_time() - start < 3
    listed = confusions(found)
    for name in found.class_names:
        own = [x for x in listed if name in (x["class"], x["taken_for"])]
        worst = max(own, key=lambda each: each["images"])
        said = f"taken for '{worst['taken_for']}'"
        if worst["class"] != name:
            said = f"'{worst['class']}' taken for it"
        assert words[name] == f"{said} {100 * worst['share']:.0f} %"


def test_nothing_confused():
    labels = np.array([0, 1, 2])
    right = evaluate_answers(labels, labels, NAMES)
    assert confusions(right) == []
    assert worst_confusion(right, "cat") == ""


@pytest.fixture
def four_classes():
    figures = np.array([0.9, 0.3, 0.0, 0.5])
    return Evaluation(
        class_names=tuple("abcd"),
        accuracy=0.5,
        precision=figures,
        recall=figures,
        f1=figures,
        other_classes_accuracy=figures,
        support=np.array([5, 5, 5, 5]),
        confusion=np.zeros((4, 4), int),
        labels=np.zeros(0, int),
        answers=np.zeros(0, int),
    )


def test_weak_classes_are_below_the_mean(four_classes):
    assert four_classes.f1.mean() == pytest.approx(0.425)
    assert weak_classes(four_classes) == [2, 1]
    assert weak_classes(four_classes, gap=0.2) == [2]


def test_weakest_class_is_weak_in_any_case(four_classes):
    assert weak_classes(four_classes, gap=0.9) == [2]


def test_weak_classes_have_images(four_classes):
    support = np.array([5, 5, 0, 5])
    without = dataclasses.replace(four_classes, support=support)
    assert weak_classes(without) == [1]


def test_figures_of_a_class_without_images_are_empty():
    labels = np.array([0, 0, 2])
    found = evaluate_answers(labels, np.array([0, 1, 1]), ["a", "b", "c"])
    classes = found.as_dict()["classes"]
    empty = dict.fromkeys(("precision", "recall", "f1"))
    assert classes["b"] == {**empty, "support": 0}
    assert classes["c"] == {**dict.fromkeys(empty, 0.0), "support": 1}


def test_classes_that_images_hardly_show_are_named():
    labels = np.repeat([0, 1, 2], [100, 2, 3])
    with pytest.warns(
        UserWarning,
        match=r"no image of \['d'\] and 1 image for 50 or more .* of \['b'\]",
    ):
        warn_of_rare_classes(labels, ["a", "b", "c", "d"])


def test_even_images_are_not_warned_of(recwarn):
    warn_of_rare_classes(np.repeat([0, 1], [49, 1]), ["a", "b"])
    assert not recwarn


@pytest.mark.parametrize("num_scores", [1, 2])
def test_a_score_far_from_the_threshold_is_sure(num_scores):
    """Own images are answered 0 or 1, unseen ones in between."""
    image = keras.Input((1, 1, 1))
    score = keras.layers.Flatten()(image)
    score = keras.layers.Activation("sigmoid")(score)
    if num_scores == 2:
        score = keras.layers.Concatenate()([1 - score, score])
    model = keras.Model(image, score)
    own = np.array([-9, 9, -8, 8], "float32").reshape(4, 1, 1, 1)
    data = own, np.array([0, 1, 0, 1])
    assert auroc_of_unseen(model, data, own / 20) == 1
    assert auroc_of_unseen(model, data, 2 * own) == 0


def test_model_that_answers_no_numbers_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.layers[0].kernel.assign(np.full((2, 2), np.nan))
    with pytest.raises(ArtifactError, match="with NaN for 3 of 3 images"):
        evaluate(model, (np.ones((3, 2)), np.array([0, 1, 0])))
