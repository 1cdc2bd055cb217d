import numpy as np
import pytest

from kmod.data.digits import load_digits
from kmod.export.images import comparison_images
from kmod.modules.manifest import InputContract


def test_images_are_real():
    contract = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    images = comparison_images(contract)
    assert images.dtype == "float32"
    np.testing.assert_array_equal(images, load_digits().test.images[:8])


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 12, 3), "float32"), ((5, 5, 4), "uint8")]
)
def test_images_fit(shape, dtype):
    contract = InputContract(shape, dtype, (0.0, 200.0))
    images = comparison_images(contract)
    assert (images.shape, images.dtype) == ((8, *shape), dtype)
    assert images.min() >= 0 and 100 < images.max() <= 200
