import numpy as np
import pytest

from kmod.modular.cnnsplitter.judges import Candidates
from kmod.modular.modular_model import ModularModel


@pytest.mark.parametrize("mask_from", [None, "conv_3"])
def test_rows_score_as_the_modular_model_does(source, images, mask_from):
    modular = ModularModel(source, mask_from=mask_from)
    masks = np.random.default_rng(0).integers(
        0, 2, (3, modular.kernels.num_groups)
    )
    masks = np.maximum(masks, ~modular.placement.may_go)
    for family in modular.placement.families:
        masks[:, family[0]] = 1
    modular.kernel_masks = masks[:, modular.kernels.groups]
    expected = modular.predict(images[0], verbose=0).T
    candidates = Candidates(modular, images[0], num_rows=2)
    scores = candidates.score(masks.astype("float32"), np.arange(3))
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_order_and_number_of_candidates_do_not_matter(source, images):
    modular = ModularModel(source)
    candidates = Candidates(modular, images[0][:8], num_rows=4)
    masks = np.ones((5, modular.kernels.num_groups), "float32")
    masks[1:, 1] = 0
    classes = np.array([0, 1, 2, 1, 0])
    scores = candidates.score(masks, classes)
    assert scores.shape == (5, 8)
    backwards = candidates.score(masks[::-1], classes[::-1])
    np.testing.assert_allclose(scores, backwards[::-1], atol=1e-5)
    np.testing.assert_allclose(scores[1], scores[3], rtol=1e-5)


def test_images_that_do_not_fit_memory_are_kept_as_they_are(
    source, images, monkeypatch
):
    monkeypatch.setattr(
        "kmod.modular.cnnsplitter.judges.fits_memory", lambda *_: False
    )
    modular = ModularModel(source)
    candidates = Candidates(modular, images[0], num_rows=3)
    assert candidates.images is images[0]
    masks = np.ones((3, modular.kernels.num_groups), "float32")
    expected = modular.predict(images[0], verbose=0).T
    scores = candidates.score(masks, np.arange(3))
    np.testing.assert_allclose(scores, expected, atol=1e-4)
