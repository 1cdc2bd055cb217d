import numpy as np
import pytest

from kmod.data.image_data import LabelledImages
from kmod.errors import UsageError
from kmod.zoo.augmented_images import AugmentedImages
from kmod.zoo.augmented_images import augment

IMAGES = np.random.default_rng(0).integers(1, 256, (300, 6, 5, 2), "uint8")


def moves_of(image):
    """Every image that `augment` may make of one."""
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    for row in range(9):
        for column in range(9):
            moved = padded[row : row + 6, column : column + 5]
            yield moved.tobytes()
            yield moved[:, ::-1].tobytes()


def test_images_are_moved_and_mirrored():
    augmented = augment(IMAGES, np.random.default_rng(1))
    assert augmented.dtype == np.uint8
    seen = {
        list(moves_of(before)).index(after.tobytes())
        for before, after in zip(IMAGES, augmented)
    }
    assert len(seen) > 100
    assert {position % 2 for position in seen} == {0, 1}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_with_channels_first_are_refused(channels):
    images = np.zeros((2, channels, 32, 32), "uint8")
    with pytest.raises(UsageError, match=rf"of shape \({channels}, 32, 32\)"):
        AugmentedImages(LabelledImages(images, np.arange(2)), 2)


def test_an_epoch_has_every_image_once():
    labels = np.arange(300)
    batches = AugmentedImages(LabelledImages(IMAGES, labels), 64)
    drawn = [batches[index][1] for index in range(batches.num_batches)]
    assert [len(part) for part in drawn] == [64, 64, 64, 64, 44]
    assert sorted(np.concatenate(drawn)) == labels.tolist()


def test_epochs_differ_and_seeds_repeat_them():
    data = LabelledImages(IMAGES, np.arange(300))
    first, second = AugmentedImages(data, 8), AugmentedImages(data, 8)
    np.testing.assert_array_equal(first[0][0], second[0][0])
    second.on_epoch_end()
    assert not np.array_equal(first[0][1], second[0][1])


def test_the_images_passed_in_stay_as_they_are():
    before = IMAGES.copy()
    AugmentedImages(LabelledImages(IMAGES, np.arange(300)), 300)[0]
    np.testing.assert_array_equal(IMAGES, before)
