import numpy as np
import pytest

from kmod.data.image_data import LabelledImages


def test_take_follows_the_given_order():
    images = np.arange(3, dtype="uint8").reshape(3, 1, 1, 1)
    taken = LabelledImages(images, np.array([5, 6, 7])).take([2, 0])
    assert taken.labels.tolist() == [7, 5]
    assert taken.images.ravel().tolist() == [2, 0]
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("image_shape", "label_shape"),
    [
        pytest.param((3, 8, 8), (3,), id="no-channel-axis"),
        pytest.param((3, 8, 8, 1), (2,), id="counts-differ"),
        pytest.param((3, 8, 8, 1), (3, 1), id="label-column"),
    ],
)
def test_shapes_must_fit(image_shape, label_shape):
    with pytest.raises(ValueError, match=r"`labels` \(n,\). Received: images"):
        LabelledImages(np.zeros(image_shape), np.zeros(label_shape, int))
