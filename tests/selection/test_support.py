import numpy as np
import pytest

from kmod.selection.support import IMAGES_PER_SCORE
from kmod.selection.support import MOST_SUPPORT
from kmod.selection.support import best_support
from kmod.selection.support import support_options


@pytest.fixture
def task():
    """The classes' own scores tell one of three classes from the others."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    scores = random.normal(size=(90, 3))
    scores[labels == 0, 0] += 4
    return scores, labels, random


def test_scores_that_tell_more_are_taken(task):
    scores, labels, random = task
    more = random.normal(size=(90, 2))
    more[labels == 1, 1] += 4
    options = {"none": np.empty((90, 0)), "more": more}
    assert best_support(scores, options, labels) == "more"


def test_scores_that_tell_nothing_are_left_out(task):
    scores, labels, random = task
    options = {"none": np.empty((90, 0)), "noise": random.normal(size=(90, 20))}
    assert best_support(scores, options, labels) == "none"


def test_a_single_image_compares_nothing(task):
    scores, labels, random = task
    own = np.flatnonzero((labels != 2) | (np.arange(90) == 2))
    more = np.eye(3)[labels[own]] * 9
    options = {"none": np.empty((len(own), 0)), "more": more}
    assert best_support(scores[own], options, labels[own]) == "none"


def test_options_are_nothing_known_classes_and_all():
    modules = [(0, "cat"), (0, "dog"), (1, "cat")]
    new = (2, "cat")
    options = support_options(modules, [new], lambda own: "cat" in own, 90)
    cats = modules[0], modules[2]
    assert options == [(), cats, tuple(modules), (*cats, new)]


def test_equal_options_count_once():
    assert support_options([(0, "a")], (), bool, 90) == [(), ((0, "a"),)]


def test_too_many_modules_are_no_option():
    many = range(MOST_SUPPORT + 1)

    def options(num_images):
        return support_options(many, (), lambda n: n < 2, num_images)

    enough = IMAGES_PER_SCORE * len(many)
    assert options(enough - 1) == [(), (0, 1)]
    assert options(enough) == [(), (0, 1), tuple(many)]
