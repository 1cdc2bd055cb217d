import types

import keras
import numpy as np
import pytest

from kmod.data.replicas import check_hosts
from kmod.data.replicas import check_scope
from kmod.data.replicas import mean_over_images
from kmod.data.replicas import outside_scopes
from kmod.errors import UsageError

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strategies of TensorFlow"
)


@pytest.fixture
def strategy():
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0"])


def small():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def test_mean_of_no_image_is_zero():
    assert float(mean_over_images(keras.ops.zeros((0, 3)))) == 0
    values = np.array([[1.0, 2.0], [3.0, 6.0]], "float32")
    assert float(mean_over_images(keras.ops.convert_to_tensor(values))) == 3


def test_outside_scopes_leaves_the_scope_and_raises(strategy):
    import tensorflow as tf

    has_strategy = outside_scopes(tf.distribute.has_strategy)
    with strategy.scope():
        assert tf.distribute.has_strategy()
        assert not has_strategy()
        with pytest.raises(ValueError, match="invalid literal"):
            outside_scopes(int)("one")


def test_models_train_in_the_scope_they_were_built_in(strategy):
    outside = small()
    with strategy.scope():
        check_scope(small())
        with pytest.raises(UsageError, match="built outside of the scope"):
            check_scope(outside)
    check_scope(outside)


def test_a_distribution_over_several_processes_is_refused(monkeypatch):
    check_hosts()
    several = types.SimpleNamespace(num_processes=2)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: several)
    with pytest.raises(UsageError, match="over 2 processes"):
        check_hosts()
