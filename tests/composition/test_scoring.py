import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kmod.composition.scoring import add_other
from kmod.composition.scoring import apply_layer
from kmod.composition.scoring import apply_lines
from kmod.composition.scoring import fit_joint
from kmod.composition.scoring import fit_lines
from kmod.composition.scoring import line_of
from kmod.composition.scoring import score_classes
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import likelihood
from kmod.metrics.calibration import logit
from kmod.spec.model import OtherClass

VALUES = np.array([[0.0, 1.0, -2.0], [5.0, -5.0, 3.0]], "float32")


def answers(build, values=VALUES):
    """Runs scores through what `build` makes of their tensor."""
    scores = keras.Input((values.shape[1],))
    return keras.Model(scores, build(scores)).predict(values, verbose=0)


def test_odds_of_joined_modules_are_added():
    found = answers(
        lambda x: score_classes([[x[:, :1], x[:, 2:]], [x[:, 1:2]]], "log_odds")
    )
    odds = np.exp(VALUES)
    expected = np.log(np.stack([odds[:, 0] + odds[:, 2], odds[:, 1]], axis=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_scores_are_shifted_before_odds_are_added():
    found = answers(
        lambda x: score_classes(
            [[x[:, :1], x[:, 2:]], [x[:, 1:2]]],
            "log_odds",
            [[1.0, -2.0], [0.5]],
        )
    )
    odds = np.exp(VALUES + [1.0, 0.5, -2.0])
    expected = np.log(np.stack([odds[:, 0] + odds[:, 2], odds[:, 1]], axis=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_every_class_gets_its_own_line():
    lines = [(2.0, 1.0), (0.5, 0.0), (1.0, -3.0)]
    found = answers(lambda x: apply_lines(x, lines, "log_odds"))
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
    model = keras.Model(scores, apply_layer(scores, layer, "log_odds"))
    values = np.array([[1, 1], [2, -2]], "float32")
    expected = values @ layer[0] + layer[1]
    np.testing.assert_allclose(model.predict(values, verbose=0), expected)
    assert model.layers[-1].name == "log_odds"
    assert not model.trainable_variables


@pytest.fixture
def joint_scorer():
    """Answers with the values of the images themselves."""
    image = keras.Input((1, 1, 3))
    return keras.Model(image, keras.layers.Flatten()(image))


def test_images_of_no_class_are_left_out(joint_scorer):
    scores, labels = confused()
    images = scores[:, None, None]
    own = fit_joint(
        joint_scorer, LabelledImages(images, labels), ("a", "b", "c")
    )
    more = LabelledImages(
        np.concatenate([images, images[:50] + 9]),
        np.concatenate([labels, np.full(50, 3)]),
    )
    for found, expected in zip(
        fit_joint(joint_scorer, more, ("a", "b", "c")), own
    ):
        np.testing.assert_array_equal(found, expected)


def test_layer_needs_images_of_every_class(joint_scorer):
    scores, labels = confused()
    data = LabelledImages(scores[:, None, None], np.minimum(labels, 1))
    with pytest.raises(ArtifactError, match=r"none of \['c'\]"):
        fit_joint(joint_scorer, data, ("a", "b", "c"))


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


@pytest.mark.parametrize(
    ("fit", "score_of", "shares"),
    [
        # A third of the images shows neither.
        pytest.param(fit_lines, logit, (1 / 6, 1 / 2), id="fit"),
        pytest.param(fit_joint, np.log, (1 / 4, 3 / 4), id="joint"),
    ],
)
def test_frequencies_of_own_images_are_replaced(fit, score_of, shares):
    labels = np.repeat([0, 1, 2], [20, 60, 40])
    draw = np.random.default_rng(0)
    scores = (
        draw.normal(size=(120, 1, 1, 2)) + np.eye(3)[labels][:, None, None, :2]
    )
    data = LabelledImages(scores, labels)
    model = keras.Sequential([keras.Input((1, 1, 2)), keras.layers.Flatten()])

    def offsets(prior):
        found = fit(model, data, ("a", "b"), prior)
        return found[1] if fit is fit_joint else np.array(found)[:, 1]

    before = offsets(None)
    np.testing.assert_array_equal(offsets("calibrated"), before)
    own = [score_of(share) for share in shares]
    for prior, wanted in (
        ("even", [np.mean(own)] * 2),
        ({"b": 0.7, "a": 0.2}, [score_of(0.2), score_of(0.7)]),
    ):
        change = offsets(prior) - before
        np.testing.assert_allclose(change, np.subtract(wanted, own), atol=1e-5)
        assert np.abs(change).max() > 0.1
