"""The optimiser of modular models."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kmod")
class ModularAdam(keras.optimizers.Adam):
    """Adam with a rate of its own for each kind of weight, and importances.

    Rates come down along a cosine over `total_steps`, which
    `ModularModel.fit` sets. Mask scores may be set to kernel importances
    instead of being trained: a running mean of the squared gradient that
    reaches each mask, the first-order Taylor estimate of what removing the
    kernel does to the loss.

    Args:
        learning_rate: Float, the rate that factors multiply.
        factors: Maps weight names to factors of the learning rate. Names not
            in it have factor 1.
        importance_decay: Float from 0 to 1, or `None` to train mask scores
            like other weights.
        final_rate: Float, what the rate comes down to, as a factor.
        **kwargs: Arguments of `keras.optimizers.Adam`.

    Reference:

    - [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771), equation 8.
    """

    def __init__(
        self,
        learning_rate=0.001,
        factors=None,
        importance_decay=None,
        final_rate=1.0,
        name="modular_adam",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.factors = dict(factors or {})
        self.importance_decay = importance_decay
        self.final_rate = final_rate

    def build(self, variables):
        if not self.built:
            self.total_steps = self.add_variable(
                (), "zeros", dtype="float32", name="total_steps"
            )
            self._names = [variable.name for variable in variables]
        super().build(variables)

    def restart(self, total_steps: int, learning_rate: float | None = None):
        """Forgets all moments and starts the decay of rates anew."""
        for variable in (*self._momentums, *self._velocities):
            self.assign(variable, ops.zeros(variable.shape, variable.dtype))
        self.iterations.assign(0)
        self.total_steps.assign(total_steps)
        if learning_rate is not None:
            self.learning_rate.assign(learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        name = self._names[self._get_variable_index(variable)]
        if name == "mask_scores" and self.importance_decay is not None:
            self._update_importance(gradient, variable)
            return
        factor = self.factors.get(name, 1.0) * self._decay()
        super().update_step(gradient, variable, learning_rate * factor)

    def _decay(self):
        steps = ops.cast(self.iterations, "float32")
        done = ops.clip(steps / ops.maximum(self.total_steps, 1), 0, 1)
        wave = (1 + ops.cos(math.pi * done)) / 2
        return self.final_rate + (1 - self.final_rate) * wave

    def _update_importance(self, gradient, variable):
        decay = self.importance_decay
        square = ops.square(ops.cast(gradient, variable.dtype))
        self.assign(variable, variable * decay + square * (1 - decay))

    def get_config(self):
        return {
            **super().get_config(),
            "factors": self.factors,
            "importance_decay": self.importance_decay,
            "final_rate": self.final_rate,
        }
