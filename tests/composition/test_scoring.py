import keras
import numpy as np
import pytest

from kmod.composition.scoring import add_other
from kmod.composition.scoring import apply_lines
from kmod.composition.scoring import fit_lines
from kmod.composition.scoring import score_classes
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.spec.model import OtherClass

VALUES = np.array([[0.0, 1.0, -2.0], [5.0, -5.0, 3.0]], "float32")


def answers(build, values=VALUES):
    """Runs scores through what `build` makes of their tensor."""
    scores = keras.Input((values.shape[1],))
    return keras.Model(scores, build(scores)).predict(values, verbose=0)


def test_odds_of_joined_modules_are_added():
    found = answers(
        lambda x: score_classes([[x[:, :1], x[:, 2:]], [x[:, 1:2]]], True)
    )
    odds = np.exp(VALUES)
    expected = np.log(np.stack([odds[:, 0] + odds[:, 2], odds[:, 1]], axis=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_every_class_gets_its_own_line():
    lines = [(2.0, 1.0), (0.5, 0.0), (1.0, -3.0)]
    found = answers(lambda x: apply_lines(x, lines, True))
    expected = VALUES * [2, 0.5, 1] + [1, 0, -3]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 0.731, 0.99])
def test_other_has_the_log_odds_of_the_threshold(threshold):
    found = answers(lambda x: add_other(x, OtherClass("none", threshold)))
    np.testing.assert_array_equal(found[:, :3], VALUES)
    expected = np.log(threshold / (1 - threshold))
    np.testing.assert_allclose(found[:, 3], expected, rtol=0, atol=1e-6)


def test_class_at_the_threshold_claims_the_image():
    found = answers(lambda x: add_other(x, OtherClass("none", 0.5)))
    tied = answers(
        lambda x: add_other(x, OtherClass("none", 0.5)),
        np.array([[0.0, -1.0, -2.0]], "float32"),
    )
    assert found.argmax(axis=1).tolist() == [1, 0]
    assert tied.argmax(axis=1).tolist() == [0]


@pytest.fixture
def scorer():
    """Answers with the values of the images themselves."""
    image = keras.Input((1, 1, 2))
    return keras.Model(image, keras.layers.Flatten()(image))


def labelled(count=40, labels=(0, 1, 2)):
    """Images whose first value is high for class 0, the second for class 1."""
    random = np.random.default_rng(0)
    labels = random.choice(labels, count)
    values = random.normal(size=(count, 2)) * 0.5
    for index in (0, 1):
        values[labels == index, index] += 3
    images = values.reshape(count, 1, 1, 2).astype("float32")
    return LabelledImages(images, labels)


def test_lines_bring_scores_to_log_odds(scorer):
    data = labelled(400)
    lines = fit_lines(scorer, data, ("a", "b"))
    for index, (scale, shift) in enumerate(lines):
        log_odds = scale * data.images[:, 0, 0, index] + shift
        right = (log_odds > 0) == (data.labels == index)
        assert scale > 1 and right.mean() > 0.95


def test_score_that_misleads_is_not_used(scorer):
    data = labelled(400)
    images = data.images.copy()
    images[..., 1] *= -50  # High where the class is not shown.
    lines = fit_lines(scorer, LabelledImages(images, data.labels), ("a", "b"))
    share = np.mean(data.labels == 1)
    assert lines[1] == (0.0, pytest.approx(np.log(share / (1 - share))))


@pytest.mark.parametrize(
    ("labels", "missing"),
    [((0, 2), r"\['b'\]"), ((1,), r"\['a', 'b'\]")],
)
def test_every_class_needs_images(scorer, labels, missing):
    with pytest.raises(ArtifactError, match=f"none of {missing}"):
        fit_lines(scorer, labelled(labels=labels), ("a", "b"))
