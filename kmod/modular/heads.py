"""Heads: what turns a masked network's logits into one class score."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="kmod")
class Heads(keras.layers.Layer):
    """One small head for each module, all computed at once.

    Without hidden units a head is linear and starts as the class's own logit
    minus the mean of all, so that the softmax of the unmasked modules' scores
    is the source model's. With hidden units it is the published one: ReLU,
    Dense, ReLU, Dense.

    Args:
        num_classes: Integer, number of modules and of logits.
        hidden_units: Integer, 0 for a linear head. Defaults to 0.
        seed: Integer, seed of the hidden head's start values.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        logits: Tensor `(batch, rows, num_classes)`.
        classes: Integer tensor `(batch, rows)`, the module of each row, or
            `None` if the rows are all modules in order.

    Output shape:
        `(batch, rows)`: raw scores, any real number.

    Reference:

    - [Qi et al., 2023](https://arxiv.org/abs/2311.04438), section 3.2.
    """

    def __init__(self, num_classes, hidden_units=0, seed=0, **kwargs):
        super().__init__(**kwargs)
        if num_classes < 2 or hidden_units < 0:
            raise ValueError(
                "`num_classes` must be at least 2 and `hidden_units` at least "
                f"0. Received: num_classes={num_classes}, "
                f"hidden_units={hidden_units}"
            )
        self.num_classes = num_classes
        self.hidden_units = hidden_units
        self.seed = seed

    def build(self, input_shape):
        n, units = self.num_classes, self.hidden_units
        if units:
            spread = keras.initializers.GlorotUniform(self.seed)
            self.hidden_kernel = self._weight("hidden_kernel", (n, n, units))
            self.hidden_bias = self._weight("hidden_bias", (n, units))
            self.hidden_kernel.assign(spread((n, n, units)))
        self.kernel = self._weight("kernel", (n, units or n))
        self.bias = self._weight("bias", (n,))
        if units:
            self.kernel.assign(spread((n, units)))
        else:
            self.kernel.assign(np.eye(n) - 1 / n)

    def _weight(self, name, shape):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )

    def call(self, logits, classes=None):
        values = logits
        if self.hidden_units:
            values = ops.einsum(
                "brn,brnu->bru",
                ops.relu(values),
                self._rows(self.hidden_kernel, classes, logits),
            )
            values = ops.relu(values + self._rows(self.hidden_bias, classes))
        kernel = self._rows(self.kernel, classes)
        return ops.sum(values * kernel, -1) + self._rows(self.bias, classes)

    def _rows(self, weight, classes, like=None):
        if classes is not None:
            return ops.take(weight, classes, axis=0)
        rows = ops.expand_dims(weight, 0)
        if like is None:
            return rows
        return ops.repeat(rows, ops.shape(like)[0], axis=0)

    def layers_for(self, class_index: int) -> list[keras.layers.Layer]:
        """Builds one class's head of plain Keras layers.

        Args:
            class_index: Integer, the class.

        Returns:
            Layers to call one after another on `(batch, num_classes)` logits;
            the last one answers the raw score `(batch, 1)`.
        """
        n, units = self.num_classes, self.hidden_units
        layers = []
        if units:
            layers += [
                keras.layers.ReLU(name="head_relu"),
                _dense(
                    units,
                    "head_hidden",
                    "relu",
                    self.hidden_kernel[class_index],
                    self.hidden_bias[class_index],
                ),
            ]
        kernel = ops.reshape(self.kernel[class_index], (units or n, 1))
        bias = ops.reshape(self.bias[class_index], (1,))
        return [*layers, _dense(1, "head", None, kernel, bias)]

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "hidden_units": self.hidden_units,
            "seed": self.seed,
        }


def _dense(units, name, activation, kernel, bias):
    layer = keras.layers.Dense(
        units, activation=activation, name=name, dtype="float32"
    )
    layer.build((None, kernel.shape[0]))
    layer.set_weights(
        [ops.convert_to_numpy(kernel), ops.convert_to_numpy(bias)]
    )
    return layer
