import keras
import numpy as np
import pytest

from kmod.modular.negatives import NegativeBatches
from kmod.modular.negatives import with_negatives

IMAGES = np.arange(24, dtype="float32").reshape(24, 1, 1, 1)
LABELS = np.arange(24)
NEGATIVES = -1 - np.arange(10, dtype="float32").reshape(10, 1, 1, 1)


class Stream(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return IMAGES[part], LABELS[part]


def data_set():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8)


def batches_of(x, **arguments):
    """Returns the batches of two epochs."""
    image = keras.Input((1, 1, 1))
    stem = keras.Model(image, {"doubled": 2 * image})
    given = {"x": x, "steps_per_epoch": None, "epochs": 2, **arguments}
    found = with_negatives(given, NEGATIVES, stem)
    batches, steps = found["x"], found["steps_per_epoch"]
    assert isinstance(batches, NegativeBatches)
    assert (batches.num_batches or steps) == 3
    epochs = []
    for epoch in range(2):
        batches.on_epoch_begin()
        start = 0 if batches.num_batches else 3 * epoch
        epochs.append([batches[start + index] for index in range(3)])
        batches.on_epoch_end()
    return epochs


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: (Stream(workers=1), {}), id="py-dataset"),
        pytest.param(lambda: (data_set(), {}), id="tf-data"),
        pytest.param(
            lambda: (data_set().repeat(), {"steps_per_epoch": 3}), id="endless"
        ),
        pytest.param(
            lambda: (IMAGES, {"y": LABELS, "batch_size": 8}), id="arrays"
        ),
    ],
)
def test_batches_hold_negatives_beside_their_images(data):
    x, arguments = data()
    for epoch in batches_of(x, **arguments):
        labels = np.concatenate([y for _, y in epoch])
        images = np.concatenate([x["images"] for x, _ in epoch])
        np.testing.assert_array_equal(images.ravel(), labels)
        np.testing.assert_array_equal(np.sort(labels), LABELS)
        for x, _ in epoch:
            assert set(x) == {"images", "negatives"}
            negatives = x["negatives"]
            if isinstance(negatives, dict):  # The stem was run ahead.
                negatives = negatives["doubled"] / 2
            assert negatives.shape == (2, 1, 1, 1)
            assert set(negatives.ravel()) <= set(NEGATIVES.ravel())


def test_negatives_of_arrays_are_drawn_by_the_seed_anew_in_each_epoch():
    keras.utils.set_random_seed(0)
    given = {"y": LABELS, "batch_size": 8}
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        drawn.append(
            [
                [x["negatives"]["doubled"].ravel().tolist() for x, _ in epoch]
                for epoch in batches_of(IMAGES, **given)
            ]
        )
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]
