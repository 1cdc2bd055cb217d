import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmod.errors import UsageError
from kmod.masks.steps import count_steps

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
        pytest.param(tf.zeros((65, 2)), {}, 3, id="tensor"),
        pytest.param(
            tf.data.Dataset.from_tensor_slices(ARRAY).batch(20),
            {},
            4,
            id="dataset",
        ),
        pytest.param(Batches(), {}, 9, id="py-dataset"),
        pytest.param([1, 2, 3], {}, 3, id="list-of-batches"),
        pytest.param(iter([]), {"steps_per_epoch": 5}, 5, id="steps-per-epoch"),
    ],
)
def test_steps_of_an_epoch(x, options, expected):
    assert steps(x, **options) == expected


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        pytest.param(
            tf.data.Dataset.from_tensors(1).repeat(),
            "_RepeatDataset",
            id="endless",
        ),
        pytest.param(
            tf.data.Dataset.range(4).filter(lambda x: x > 1),
            "_FilterDataset",
            id="unknown",
        ),
        pytest.param((x for x in ()), "generator", id="generator"),
    ],
)
def test_data_of_unknown_length(x, kind):
    with pytest.raises(UsageError, match=f"type {kind}. Give `steps_per"):
        steps(x)
