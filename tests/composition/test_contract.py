import numpy as np
import pytest

from kmod.composition.contract import FORM_PATHS
from kmod.composition.measures import unsquashed_answers
from kmod.export.write import FORMS


def test_paths_are_those_of_the_forms():
    assert FORM_PATHS == {name: form.path for name, form in FORMS.items()}


def test_answers_are_those_in_front_of_the_softmax(strong, images):
    answers = unsquashed_answers(strong, images)
    odds = np.exp(answers - answers.max(axis=1, keepdims=True))
    expected = odds / odds.sum(axis=1, keepdims=True)
    found = strong.predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(answers) > 1
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found, answers, atol=1e-6)
