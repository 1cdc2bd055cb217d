import numpy as np
import tensorflow as tf

from kmod.masks.straight_through import straight_through


def gradient_of(weights):
    mask, scores = tf.constant([1.0, 0.0, 1.0]), tf.Variable([2.0, -3.0, 0.1])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(straight_through(mask, scores) * weights)
    return tape.gradient(loss, scores).numpy()


def test_value_is_the_mask():
    scores = tf.constant([2.0, -3.0])
    np.testing.assert_array_equal(straight_through([1, 0], scores), [1, 0])


def test_gradient_passes_whether_kept_or_not():
    np.testing.assert_allclose(gradient_of([0.5, -0.25, 0]), [0.5, -0.25, 0])


def test_gradient_is_clipped_element_by_element():
    np.testing.assert_allclose(gradient_of([5.0, -7.0, 0.5]), [1, -1, 0.5])


def test_mask_gets_no_gradient():
    mask, scores = tf.Variable([1.0, 0.0]), tf.constant([2.0, -3.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(straight_through(mask, scores))
    assert not np.any(tape.gradient(loss, mask))
