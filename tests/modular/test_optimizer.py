import inspect

import keras
import numpy as np
import pytest

from kmod.modular.optimizer import FusedAdam
from kmod.modular.optimizer import ModularAdam


def optimizer_of(*names, **options):
    variables = [keras.Variable([1.0, 2.0], name=name) for name in names]
    optimizer = ModularAdam(0.1, **options)
    optimizer.build(variables)
    optimizer.restart(10)
    return optimizer, variables


def apply(optimizer, *gradients):
    optimizer.apply([np.array(g, "float32") for g in gradients])


def importances_of(**options):
    """An optimiser of two classes' scores of two groups."""
    scores = keras.Variable([[1.0, 2.0], [3.0, 4.0]], name="mask_scores")
    optimizer = ModularAdam(0.1, **options)
    optimizer.build([scores])
    optimizer.restart(10)
    return optimizer, scores


def test_mask_gradients_of_the_last_steps_are_kept():
    optimizer, scores = importances_of(importance_steps=3)
    assert optimizer.mask_gradients.shape == (0, 2, 2)
    apply(optimizer, [[1.0, -1.0], [1.0, -1.0]])
    np.testing.assert_array_equal(
        optimizer.mask_gradients, [[[1, -1], [1, -1]]]
    )
    for value in (2.0, 3.0, 4.0):
        apply(optimizer, [[value, -value], [value, -value]])
    kept = np.sort(optimizer.mask_gradients[..., 0], axis=0)
    np.testing.assert_array_equal(kept, [[2, 2], [3, 3], [4, 4]])
    np.testing.assert_array_equal(scores, [[1, 2], [3, 4]])
    optimizer.restart(10)
    assert optimizer.mask_gradients.shape == (0, 2, 2)


def test_each_class_keeps_the_gradients_of_steps_that_drew_it():
    optimizer, _ = importances_of(importance_steps=2)
    apply(optimizer, [[0.0, 0.0], [5.0, 6.0]])
    for value in (1.0, 2.0, 3.0):
        apply(optimizer, [[value, 0.0], [0.0, 0.0]])
    first, second = np.moveaxis(optimizer.mask_gradients, 1, 0)
    np.testing.assert_array_equal(np.sort(first[:, 0]), [2, 3])
    np.testing.assert_array_equal(second, [[5, 6], [0, 0]])
    optimizer.restart(10)
    apply(optimizer, [[1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(optimizer.mask_gradients, [[[1, 1], [0, 0]]])


def test_kept_gradients_are_limited(monkeypatch):
    monkeypatch.setattr("kmod.modular.optimizer.LIMIT", 9)
    optimizer, _ = importances_of(importance_steps=3)
    for _ in range(4):
        apply(optimizer, [[1.0, 1.0], [1.0, 1.0]])
    assert optimizer.mask_gradients.shape == (2, 2, 2)


def test_scores_train_like_other_weights_without_importances():
    optimizer, (scores, other) = optimizer_of("mask_scores", "other")
    apply(optimizer, [1.0, -1.0], [1.0, -1.0])
    np.testing.assert_allclose(scores, other)
    np.testing.assert_allclose(scores, [0.9, 2.1], rtol=1e-4)


def test_factors_scale_the_rate_of_a_name():
    optimizer, (kernel, scale) = optimizer_of(
        "kernel", "scale", factors={"scale": 0.5}
    )
    apply(optimizer, [1.0, 1.0], [1.0, 1.0])
    np.testing.assert_allclose(kernel, [0.9, 1.9], rtol=1e-4)
    np.testing.assert_allclose(scale, [0.95, 1.95], rtol=1e-4)


def moved(optimizer, variable):
    before = np.array(variable)
    apply(optimizer, [1.0, 1.0])
    return float((before - np.array(variable))[0])


def test_rates_come_down_along_a_cosine():
    optimizer, (kernel,) = optimizer_of("kernel", final_rate=0.2)
    steps = [moved(optimizer, kernel) for _ in range(12)]
    assert steps[0] == pytest.approx(0.1, rel=1e-3)
    assert steps[5] == pytest.approx(0.06, rel=1e-3)
    assert steps[10] == pytest.approx(0.02, rel=1e-3)
    assert steps[11] == pytest.approx(0.02, rel=1e-3)


def test_restart_forgets_moments_and_decay():
    optimizer, (kernel,) = optimizer_of("kernel", final_rate=0.0)
    steps = [moved(optimizer, kernel) for _ in range(8)]
    optimizer.restart(10)
    assert int(optimizer.iterations) == 0
    again = [moved(optimizer, kernel) for _ in range(8)]
    np.testing.assert_allclose(again, steps, rtol=1e-3)


def test_restart_may_change_the_rate():
    optimizer, (kernel,) = optimizer_of("kernel")
    optimizer.restart(10, learning_rate=0.01)
    assert moved(optimizer, kernel) == pytest.approx(0.01, rel=1e-3)
    optimizer.restart(10)
    assert moved(optimizer, kernel) == pytest.approx(0.01, rel=1e-3)


def test_config_round_trip():
    optimizer = ModularAdam(
        0.02, factors={"scale": 2.0}, importance_steps=5, final_rate=0.1
    )
    config = optimizer.get_config()
    arguments = set(inspect.signature(ModularAdam).parameters) - {"kwargs"}
    assert arguments <= config.keys()
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )
    assert copy.get_config() == config
    assert copy.factors == {"scale": 2.0}


def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            # A bias in front of BatchNormalization has no gradient but noise.
            layers.Conv2D(3, 3, use_bias=False, kernel_constraint="non_neg"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def trained_with(optimizer, epochs=3):
    model = network()
    model.compile(optimizer, "mse")
    random = np.random.default_rng(0)
    images = random.normal(size=(40, 6, 6, 1)).astype("float32")
    targets = images[:, :2, 0, 0]
    model.fit(images, targets, 8, epochs=epochs, shuffle=False, verbose=0)
    return model.get_weights()


def largest_gap(first, second):
    return max(np.abs(a - b).max() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("decays", [{}, {"beta_1": 0.5, "beta_2": 0.9}])
def test_weights_are_those_of_adam(decays):
    rate = keras.optimizers.schedules.CosineDecay(0.01, 15, 0.05)
    expected = trained_with(keras.optimizers.Adam(rate, **decays))
    assert largest_gap(trained_with(FusedAdam(rate, **decays)), expected) < 1e-5
    # Controls: the training moves the weights, and other decays do so
    # elsewhere.
    assert largest_gap(network().get_weights(), expected) > 1e-2
    other = FusedAdam(rate, beta_1=0.8, beta_2=0.95)
    assert largest_gap(trained_with(other), expected) > 1e-3


def test_weights_without_a_gradient_stay():
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([[3.0]])]
    optimizer = FusedAdam(0.1)
    optimizer.build(variables)
    optimizer.apply([np.array([1.0, -1.0], "float32"), None])
    np.testing.assert_allclose(variables[0], [0.9, 2.1], atol=1e-5)
    np.testing.assert_array_equal(variables[1], [[3.0]])


def test_fused_adam_is_made_again_from_its_config():
    rate = keras.optimizers.schedules.CosineDecay(0.01, 15)
    optimizer = FusedAdam(rate, beta_1=0.8, beta_2=0.95, epsilon=1e-6)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, FusedAdam)
    assert again.get_config() == optimizer.get_config()
