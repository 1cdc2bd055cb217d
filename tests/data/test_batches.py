import keras
import numpy as np
import pytest
import tensorflow as tf

from kmod.data.batches import iter_batches
from kmod.data.batches import to_arrays
from kmod.data.image_data import LabelledImages

IMAGES = np.arange(5 * 4).reshape(5, 2, 2, 1).astype("float32")
LABELS = np.array([0, 1, 2, 1, 0])


class Pairs(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        part = slice(2 * index, 2 * index + 2)
        return IMAGES[part], LABELS[part]


class Endless(Pairs):
    num_batches = None


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((IMAGES, LABELS), id="arrays"),
        pytest.param((IMAGES, LABELS[:, None]), id="label-column"),
        pytest.param((IMAGES, LABELS.astype("uint8")), id="uint8-labels"),
        pytest.param(LabelledImages(IMAGES, LABELS), id="labelled-images"),
        pytest.param(dataset(IMAGES, LABELS).batch(2), id="tf-data"),
        pytest.param(
            dataset(IMAGES, LABELS, np.ones(5)).batch(2), id="sample-weights"
        ),
        pytest.param(Pairs(), id="py-dataset"),
    ],
)
def test_any_data_gives_the_same_batches(data):
    batches = list(iter_batches(data, batch_size=2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert all(labels.dtype == np.int64 for _, labels in batches)
    images, labels = to_arrays(data)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_to_arrays_stops_at_the_limit():
    images, labels = to_arrays(dataset(IMAGES, LABELS).batch(2), limit=3)
    np.testing.assert_array_equal(images, IMAGES[:3])
    np.testing.assert_array_equal(labels, LABELS[:3])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            (IMAGES, np.eye(3)[LABELS]),
            r"float64 labels of shape \(5, 3\). Turn one-hot .* `labels.argmax",
            id="one-hot",
        ),
        pytest.param(
            (IMAGES, LABELS.astype("float32")),
            "float32 labels .* `labels.astype",
            id="float",
        ),
        pytest.param(
            (IMAGES, LABELS[:3]), "5 images and 3 labels", id="counts-differ"
        ),
        pytest.param((IMAGES[:0], LABELS[:0]), "at least one", id="empty"),
        pytest.param(
            dataset(IMAGES, LABELS), r"Use `data.batch\(256\)`", id="unbatched"
        ),
        pytest.param(
            tf.data.Dataset.from_tensor_slices(IMAGES).batch(2),
            "object of type ndarray. Bring it",
            id="no-labels",
        ),
        pytest.param(
            dataset(IMAGES, LABELS).batch(2).repeat(),
            "Received: an endless data set",
            id="endless-tf-data",
        ),
        pytest.param(
            Endless(), "Received: an endless data set", id="endless-py-dataset"
        ),
    ],
)
def test_data_of_another_form_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        to_arrays(data)


def test_data_of_another_type_are_refused():
    with pytest.raises(TypeError, match="Received: an object of type list"):
        to_arrays([IMAGES, LABELS])
