import keras
import numpy as np
from keras import ops

from kmod.layers.kernel_masks import straight_through


def gradient_at(values, function):
    """Gradient of a scalar function, by the backend at hand."""
    if keras.backend.backend() == "jax":
        import jax

        return np.array(jax.grad(function)(ops.convert_to_tensor(values)))
    import tensorflow as tf

    variable = tf.Variable(values)
    with tf.GradientTape() as tape:
        answer = function(variable)
    return tape.gradient(answer, variable, unconnected_gradients="zero").numpy()


def gradient_of(weights):
    mask = ops.convert_to_tensor([1.0, 0.0, 1.0])
    return gradient_at(
        [2.0, -3.0, 0.1],
        lambda scores: ops.sum(straight_through(mask, scores) * weights),
    )


def test_value_is_the_mask():
    mask, scores = (ops.convert_to_tensor(x) for x in ([1.0, 0], [2.0, -3]))
    np.testing.assert_array_equal(straight_through(mask, scores), [1, 0])


def test_gradient_passes_whether_kept_or_not():
    weights = np.float32([0.5, -0.25, 0])
    np.testing.assert_allclose(gradient_of(weights), weights)


def test_gradient_is_clipped_element_by_element():
    weights = np.float32([5.0, -7.0, 0.5])
    np.testing.assert_allclose(gradient_of(weights), [1, -1, 0.5])


def test_mask_gets_no_gradient():
    scores = ops.convert_to_tensor([2.0, -3.0])
    gradient = gradient_at(
        [1.0, 0.0], lambda mask: ops.sum(straight_through(mask, scores))
    )
    assert not np.any(gradient)
