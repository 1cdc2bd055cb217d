import numpy as np
import pytest

from kmod.data.image_data import LabelledImages
from kmod.data.subsets import class_subset
from kmod.data.subsets import dirichlet_subset
from kmod.data.subsets import hold_out
from kmod.errors import UsageError


def images_of(labels):
    """Images whose only pixel is their position."""
    positions = np.arange(len(labels)).reshape(-1, 1, 1, 1)
    return LabelledImages(positions, np.asarray(labels))


def test_hold_out_keeps_classes_in_proportion():
    rest, held_out = hold_out(images_of([0] * 20 + [1] * 60), 0.25, seed=0)
    assert np.bincount(rest.labels).tolist() == [15, 45]
    assert np.bincount(held_out.labels).tolist() == [5, 15]


def test_hold_out_loses_and_repeats_nothing():
    rest, held_out = hold_out(images_of([0, 1] * 10), 0.2, seed=3)
    positions = np.concatenate([rest.images, held_out.images]).ravel()
    assert sorted(positions) == list(range(20))


def test_hold_out_depends_on_the_seed_alone():
    images = images_of([0, 1] * 50)
    first, same, other = (
        hold_out(images, 0.5, seed)[1].images for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fraction", [0, 1, 1.5])
def test_hold_out_refuses_other_shares(fraction):
    with pytest.raises(UsageError, match=f"below 1. Received: {fraction}. A"):
        hold_out(images_of([0, 1]), fraction, seed=0)


def test_class_subset_numbers_classes_as_they_are_named():
    subset = class_subset(images_of([0, 1, 2, 2, 0]), [2, 0])
    assert subset.labels.tolist() == [1, 0, 0, 1]
    assert subset.images.ravel().tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("classes", "absent"),
    [
        pytest.param([0, 0], r"\[\]", id="twice"),
        pytest.param([0, 7], r"\[7\]", id="no-images"),
    ],
)
def test_class_subset_refuses(classes, absent):
    with pytest.raises(UsageError, match=f"without images: {absent}. Classes"):
        class_subset(images_of([0, 1]), classes)


@pytest.mark.parametrize(
    ("seed", "counts"),
    [
        pytest.param(
            1,
            [1140, 4190, 4933, 462, 220, 845, 5000, 379, 1819, 4366],
            id="second-draw",
        ),
        pytest.param(
            3,
            [1765, 2717, 758, 1577, 4929, 5000, 296, 512, 116, 1282],
            id="first-draw",
        ),
        pytest.param(
            6,
            [1803, 3202, 774, 5000, 392, 1878, 179, 2723, 4174, 998],
            id="third-draw",
        ),
    ],
)
def test_dirichlet_subset_has_the_papers_counts(seed, counts):
    images = images_of(np.repeat(np.arange(10), 5000))
    subset = dirichlet_subset(images, 10, seed)
    assert np.bincount(subset.labels).tolist() == counts
    assert len(np.unique(subset.images)) == len(subset)


def test_dirichlet_subset_is_shuffled():
    images = images_of(np.repeat([0, 1], 500))
    subset = dirichlet_subset(images, 2, seed=0)
    assert len(set(subset.labels[:20].tolist())) == 2


def test_dirichlet_subset_gives_up():
    with pytest.raises(UsageError, match="No draw of 5 .* class of 50 images"):
        dirichlet_subset(images_of([0, 1] * 50), 2, seed=0, max_tries=5)
