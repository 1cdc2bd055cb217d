"""The handwritten digits that scikit-learn brings along."""

import numpy as np

from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.subsets import hold_out

# The test images stay the same for every seed, so that a model trained with
# one seed is never tested on its own training images.
TEST_SPLIT = 0.2
TEST_SEED = 0


def load_digits(validation_split: float = 0.2, seed: int = 0) -> ImageData:
    """Loads 1,797 real images of digits, 8x8x1, without any download.

    Args:
        validation_split: Share of the training images to validate on.
        seed: Integer, seed of that choice. The test images do not change.

    Returns:
        The data set, uint8 values from 0 to 255.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.rint(digits.images[..., None] * (255 / 16)).astype("uint8")
    labels = digits.target.astype("int64")
    rest, test = hold_out(LabelledImages(images, labels), TEST_SPLIT, TEST_SEED)
    train, validation = hold_out(rest, validation_split, seed)
    return ImageData(
        name="digits",
        version="uci-80",
        class_names=tuple(str(name) for name in digits.target_names),
        value_range=(0.0, 255.0),
        train=train,
        validation=validation,
        test=test,
    )
