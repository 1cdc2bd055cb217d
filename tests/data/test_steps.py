import importlib.util
import inspect

import keras
import numpy as np
import pytest

from kmod.data.batches import count_steps
from kmod.errors import UsageError

# The JAX backend does without TensorFlow.
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed",
)
ARRAY = np.zeros((70, 2))


class Batches(keras.utils.PyDataset):
    num_batches = 9

    def __getitem__(self, index):
        return ARRAY


def steps(x, **options):
    bound = inspect.signature(keras.Model.fit).bind(None, x, **options)
    bound.apply_defaults()
    return count_steps(bound.arguments)


@pytest.mark.parametrize(
    ("x", "options", "expected"),
    [
        pytest.param(ARRAY, {}, 3, id="array"),
        pytest.param(ARRAY, {"batch_size": 7}, 10, id="batch-size"),
        pytest.param(
            ARRAY, {"batch_size": 7, "validation_split": 0.5}, 5, id="split"
        ),
        pytest.param(Batches(), {}, 9, id="py-dataset"),
        pytest.param([1, 2, 3], {}, 3, id="list-of-batches"),
        pytest.param(iter([]), {"steps_per_epoch": 5}, 5, id="steps-per-epoch"),
    ],
)
def test_steps_of_an_epoch(x, options, expected):
    assert steps(x, **options) == expected


def datasets():
    """TensorFlow's data sets of known and of unknown length."""
    import tensorflow as tf

    dataset = tf.data.Dataset
    return {
        "tensor": tf.zeros((65, 2)),
        "dataset": dataset.from_tensor_slices(ARRAY).batch(20),
        "endless": dataset.from_tensors(1).repeat(),
        "unknown": dataset.range(4).filter(lambda x: x > 1),
    }


@needs_tensorflow
@pytest.mark.parametrize(("name", "expected"), [("tensor", 3), ("dataset", 4)])
def test_steps_of_an_epoch_of_tensorflow(name, expected):
    assert steps(datasets()[name]) == expected


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "kind"),
    [("endless", "_RepeatDataset"), ("unknown", "_FilterDataset")],
)
def test_datasets_of_unknown_length(name, kind):
    with pytest.raises(UsageError, match=f"type {kind}. Give `steps_per"):
        steps(datasets()[name])


def test_data_of_unknown_length():
    generator = (x for x in ())
    with pytest.raises(UsageError, match="type generator. Give `steps_per"):
        steps(generator)
