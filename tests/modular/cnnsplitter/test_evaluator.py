import numpy as np
import pytest

from kmod.modular.cnnsplitter.evaluator import Evaluator
from kmod.modular.cnnsplitter.evaluator import align
from kmod.modular.cnnsplitter.evaluator import align_heads
from kmod.modular.modular_model import ModularModel


@pytest.fixture
def evaluator(source, images):
    return Evaluator(ModularModel(source), *images, num_rows=3)


@pytest.mark.parametrize("mask_from", [None, "conv_3"])
def test_raw_scores_are_those_of_the_modular_model(source, images, mask_from):
    modular = ModularModel(source, mask_from=mask_from)
    masks = np.random.default_rng(0).integers(
        0, 2, (3, modular.kernels.num_groups)
    )
    masks = np.maximum(masks, ~modular.placement.may_go)
    for family in modular.placement.families:
        masks[:, family[0]] = 1
    modular.kernel_masks = masks[:, modular.kernels.groups]
    expected = modular.predict(images[0], verbose=0).T
    evaluator = Evaluator(modular, *images, num_rows=2)
    scores = evaluator.raw_scores(masks.astype("float32"), np.arange(3))
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_order_and_number_of_individuals_do_not_matter(source, images):
    modular = ModularModel(source)
    evaluator = Evaluator(modular, images[0][:8], images[1][:8], num_rows=4)
    masks = np.ones((5, modular.kernels.num_groups), "float32")
    masks[1:, 1] = 0
    classes = np.array([0, 1, 2, 1, 0])
    scores = evaluator.raw_scores(masks, classes)
    assert scores.shape == (5, 8)
    backwards = evaluator.raw_scores(masks[::-1], classes[::-1])
    np.testing.assert_allclose(scores, backwards[::-1], atol=1e-5)
    np.testing.assert_allclose(scores[1], scores[3], rtol=1e-5)


def test_images_that_do_not_fit_memory_are_kept_as_they_are(
    source, images, monkeypatch
):
    monkeypatch.setattr("kmod.modular.stem.LIMIT", 0)
    modular = ModularModel(source)
    evaluator = Evaluator(modular, *images, num_rows=3)
    assert evaluator.images is images[0]
    masks = np.ones((3, modular.kernels.num_groups), "float32")
    expected = modular.predict(images[0], verbose=0).T
    scores = evaluator.raw_scores(masks, np.arange(3))
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_whole_modules_score_as_the_source_model(evaluator, source, images):
    everything = np.ones((3, 20), "float32")
    scores = evaluator.scores(everything, np.arange(3))
    np.testing.assert_allclose(scores, evaluator.source_scores, atol=1e-3)
    logits = source.predict(images[0], verbose=0)
    np.testing.assert_allclose(
        scores.T, logits - logits.mean(axis=1, keepdims=True), atol=1e-3
    )


def test_source_accuracy_among_some_classes(evaluator):
    evaluator.labels = np.array([0, 1, 2, 0])
    evaluator.source_scores = np.array(
        [[1, 0, 9, 2], [0, 3, 0, 4], [5, 0, 1, 0]]
    )
    assert evaluator.source_accuracy(np.array([0, 1])) == pytest.approx(2 / 3)
    assert evaluator.source_accuracy(np.arange(3)) == pytest.approx(1 / 4)
    evaluator.labels = np.array([2, 2, 2, 2])
    assert evaluator.source_accuracy(np.array([0, 1])) == 0


def test_lines_are_found_and_never_fall():
    scores = np.array([[0.0, 1, 2], [0, 1, 2], [1, 1, 1]])
    expected = np.array([[3.0, 5, 7], [2, 1, 0], [0, 3, 6]])
    scale, shift = align(scores, expected)
    np.testing.assert_allclose(scale, [2, 0, 0])
    np.testing.assert_allclose(shift, [3, 1, 3])


def test_heads_come_nearer_to_the_source_model(source, images):
    modular = ModularModel(source)
    masks = np.ones_like(modular.kernel_masks)
    masks[:, modular.kernels.ids_of("conv_3")[::2]] = 0
    modular.kernel_masks = masks
    logits = source.predict(images[0], verbose=0)
    expected = logits - logits.mean(axis=1, keepdims=True)

    def gap():
        scores = modular.predict(images[0], verbose=0)
        return np.square(scores - expected).mean(axis=0)

    before = gap()
    align_heads(modular, images[0])
    assert np.all(gap() <= before + 1e-5) and np.any(gap() < before - 1e-3)
