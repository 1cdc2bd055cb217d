import numpy as np
import pytest

from kmod.metrics.confusion import Confusion
from kmod.metrics.confusion import confusions
from kmod.metrics.confusion import worst_confusion
from kmod.metrics.evaluate import evaluate_answers

NAMES = ("cat", "dog", "ship")


@pytest.fixture
def evaluation():
    # Cats: 1 of 4 right, 2 taken for dogs, 1 for a ship. Ships: 1 of 10 is
    # taken for a dog. Dogs are all right.
    labels = np.repeat([0, 1, 2], [4, 2, 10])
    answers = np.array([0, 1, 1, 2, 1, 1, *[2] * 9, 1])
    return evaluate_answers(labels, answers, NAMES)


def test_confusions_come_worst_first(evaluation):
    assert confusions(evaluation) == [
        Confusion("cat", "dog", 2, 0.5),
        Confusion("cat", "ship", 1, 0.25),
        Confusion("ship", "dog", 1, 0.1),
    ]


def test_as_dict_names_the_class(evaluation):
    assert confusions(evaluation)[0].as_dict() == {
        "class": "cat",
        "taken_for": "dog",
        "images": 2,
        "share": 0.5,
    }


@pytest.mark.parametrize(
    ("class_name", "words"),
    [
        ("cat", "taken for 'dog' 50 %"),
        ("dog", "'cat' taken for it 50 %"),
        ("ship", "'cat' taken for it 25 %"),
    ],
)
def test_worst_confusion_in_words(evaluation, class_name, words):
    assert worst_confusion(evaluation, class_name) == words


def test_nothing_confused():
    labels = np.array([0, 1, 2])
    evaluation = evaluate_answers(labels, labels, NAMES)
    assert confusions(evaluation) == []
    assert worst_confusion(evaluation, "cat") == ""
