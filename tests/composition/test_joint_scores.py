import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kmod.composition.joint_scores import apply_layer
from kmod.composition.joint_scores import fit_joint
from kmod.composition.scoring import line_of
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import likelihood


def confused(count=600):
    """The second class's module knows nothing; both others take it in."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, count)
    scores = random.normal(size=(count, 3)) * 0.5
    scores[labels != 2, 0] += 3
    scores[labels != 0, 2] += 3
    return scores.astype("float32"), labels


def right(scores, labels):
    return np.mean(scores.argmax(axis=1) == labels)


def test_scores_of_other_classes_count():
    scores, labels = confused()
    (new, truth), (few, known) = (
        (scores[part], labels[part])
        for part in (slice(None, 300), slice(300, None))
    )
    weights, bias = fit_scores(few, known)
    assert right(new @ weights + bias, truth) > 0.95
    lines = [line_of(few[:, c], known == c) for c in range(3)]
    alone = np.stack([a * new[:, c] + b for c, (a, b) in enumerate(lines)], 1)
    assert right(alone, truth) < 0.8


def test_two_classes_get_a_score_each():
    scores, labels = confused()
    own, labels = scores[labels > 0][:, :2], labels[labels > 0] - 1
    weights, bias = fit_scores(own, labels)
    assert weights.shape == (2, 2) and bias.shape == (2,)
    assert right(own @ weights + bias, labels) > 0.95


def test_units_of_a_score_do_not_matter():
    scores, labels = confused()
    weights, bias = fit_scores(scores, labels)
    scaled, same = fit_scores(scores * [1, 1, 1000], labels)
    np.testing.assert_allclose(scaled[2] * 1000, weights[2], rtol=1e-2)
    np.testing.assert_allclose(same, bias, rtol=0, atol=1e-2)


def test_layer_is_the_log_odds():
    layer = np.array([[1, 2], [-1, 0.5]], "float32"), np.array([3, 4.0])
    scores = keras.Input((2,))
    model = keras.Model(scores, apply_layer(scores, layer))
    values = np.array([[1, 1], [2, -2]], "float32")
    expected = values @ layer[0] + layer[1]
    np.testing.assert_allclose(model.predict(values, verbose=0), expected)
    assert model.layers[-1].name == "log_odds"
    assert not model.trainable_variables


@pytest.fixture
def scorer():
    """Answers with the values of the images themselves."""
    image = keras.Input((1, 1, 3))
    return keras.Model(image, keras.layers.Flatten()(image))


def test_images_of_no_class_are_left_out(scorer):
    scores, labels = confused()
    images = scores[:, None, None]
    own = fit_joint(scorer, LabelledImages(images, labels), ("a", "b", "c"))
    more = LabelledImages(
        np.concatenate([images, images[:50] + 9]),
        np.concatenate([labels, np.full(50, 3)]),
    )
    for found, expected in zip(fit_joint(scorer, more, ("a", "b", "c")), own):
        np.testing.assert_array_equal(found, expected)


def test_every_class_needs_images(scorer):
    scores, labels = confused()
    data = LabelledImages(scores[:, None, None], np.minimum(labels, 1))
    with pytest.raises(ArtifactError, match=r"none of \['c'\]"):
        fit_joint(scorer, data, ("a", "b", "c"))


def test_a_class_may_have_a_single_image():
    scores, labels = confused(60)
    labels[labels == 2] = np.arange(np.sum(labels == 2)) > 0
    labels[np.flatnonzero(labels == 1)[0]] = 2
    weights, bias = fit_scores(scores, labels)
    assert weights.shape == (3, 3) and bias.shape == (3,)


def test_penalty_is_chosen_on_other_images():
    """Scores that mean nothing are held down, one that tells all is not."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 80)
    noise = random.normal(size=(80, 40))
    clear = np.where(labels, 1, -1)[:, None] + noise[:, :1] * 0.1
    for scores, is_small in ((noise, True), (clear, False)):
        low, high = (likelihood(scores, labels, p) for p in (0.3, 10))
        assert (high > low) == is_small
        fixed = LogisticRegression(C=1 / 3)
        fixed.fit((scores - scores.mean(axis=0)) / scores.std(axis=0), labels)
        expected = np.abs(fixed.coef_[0] / scores.std(axis=0)).sum()
        found = np.abs(np.diff(fit_scores(scores, labels)[0])).sum()
        assert (found < 0.8 * expected) == is_small
        assert (found > 1.2 * expected) != is_small
