"""The optimisers that modular models and modules are trained with."""

import math

import keras
import numpy as np
from keras import ops

from kmod.data.replicas import has_scope
from kmod.graph.internals import index_in
from kmod.graph.internals import moments
from kmod.graph.internals import trained_by
from kmod.modular.recipe import Recipe

LIMIT = 2**26  # Numbers that kept gradients may have, 256 MiB.
FULL_RATE_LAYERS = 15  # Scales and shifts of more layers change less at once.


@keras.saving.register_keras_serializable(package="kmod")
class ModularAdam(keras.optimizers.Adam):
    """Adam with a rate of its own for each kind of weight.

    Rates come down along a cosine over `total_steps`, which
    `ModularModel.fit` sets. Mask scores need not be trained: instead the
    gradients that reach the masks are kept, for `ImportanceUpdates` to work
    kernel importances out from.

    Args:
        learning_rate: Float, the rate that factors multiply.
        factors: Maps weight names to factors of the learning rate. Names not
            in it have factor 1.
        importance_steps: Integer, how many mask gradients are kept of each
            class, those of the last steps that drew it; fewer where they would
            take more than 256 MiB. `None` to train mask scores like other
            weights.
        final_rate: Float, what the rate comes down to, as a factor.
        **kwargs: Arguments of `keras.optimizers.Adam`.
    """

    def __init__(
        self,
        learning_rate=0.001,
        factors=None,
        importance_steps=None,
        final_rate=1.0,
        name="modular_adam",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.factors = dict(factors or {})
        self.importance_steps = importance_steps
        self.final_rate = final_rate

    def build(self, variables):
        if not self.built:
            self.total_steps = self.add_variable(
                (), "zeros", dtype="float32", name="total_steps"
            )
            self._names = [variable.name for variable in variables]
            self._add_mask_gradients(variables)
        super().build(variables)

    def _add_mask_gradients(self, variables):
        self._mask_gradients = None
        if self.importance_steps is None:
            return
        (scores,) = (v for v in variables if v.name == "mask_scores")
        steps = LIMIT // math.prod(scores.shape)
        self._mask_gradients = self.add_variable(
            (max(1, min(self.importance_steps, steps)), *scores.shape),
            "zeros",
            dtype="float32",
            name="mask_gradients",
        )
        self._steps_of_class = self.add_variable(
            scores.shape[:1], "zeros", dtype="int32", name="steps_of_class"
        )

    @property
    def mask_gradients(self) -> np.ndarray:
        """Mask gradients of each class's last steps since the last restart.

        Float array `(steps, num_classes, num_groups)`, in any order; zeros
        where a class had fewer steps.
        """
        steps = ops.convert_to_numpy(self._steps_of_class).max()
        return ops.convert_to_numpy(self._mask_gradients)[:steps]

    def restart(self, total_steps: int, learning_rate: float | None = None):
        """Forgets all moments and starts the decay of rates anew."""
        kept = ()
        if self._mask_gradients is not None:
            kept = self._mask_gradients, self._steps_of_class
        for variable in (*moments(self), *kept):
            self.assign(variable, ops.zeros(variable.shape, variable.dtype))
        self.iterations.assign(0)
        self.total_steps.assign(total_steps)
        if learning_rate is not None:
            self.learning_rate.assign(learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        name = self._names[index_in(self, variable)]
        if name == "mask_scores" and self.importance_steps is not None:
            self._keep_mask_gradient(gradient)
            return
        factor = self.factors.get(name, 1.0) * self._decay()
        super().update_step(gradient, variable, learning_rate * factor)

    def _decay(self):
        steps = ops.cast(self.iterations, "float32")
        done = ops.clip(steps / ops.maximum(self.total_steps, 1), 0, 1)
        wave = (1 + ops.cos(math.pi * done)) / 2
        return self.final_rate + (1 - self.final_rate) * wave

    def _keep_mask_gradient(self, gradient):
        """Keeps the gradients of the classes that this step has drawn."""
        kept, steps = self._mask_gradients, self._steps_of_class
        gradient = ops.cast(gradient, kept.dtype)
        is_drawn = ops.any(gradient != 0, axis=1)
        place = ops.stack(
            [steps % kept.shape[0], ops.arange(steps.shape[0])], 1
        )
        before = ops.take_along_axis(kept, place[None, :, :1], axis=0)[0]
        gradient = ops.where(is_drawn[:, None], gradient, before)
        self.assign(kept, ops.scatter_update(kept, place, gradient))
        self.assign_add(steps, ops.cast(is_drawn, steps.dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "factors": self.factors,
            "importance_steps": self.importance_steps,
            "final_rate": self.final_rate,
        }


@keras.saving.register_keras_serializable(package="kmod")
class FusedAdam(keras.optimizers.Optimizer):
    """Adam that updates all weights at once, as one long vector.

    A network of many small layers then takes far fewer operations a step,
    which TensorFlow has to trace and to optimise before the first one. The
    weights become those of `keras.optimizers.Adam`, to float32 rounding. All
    weights must be trained on one device.

    Args:
        learning_rate: Float or schedule.
        beta_1: Float, decay of the moving mean of gradients.
        beta_2: Float, decay of the moving mean of their squares.
        epsilon: Float, what is added to the root of the latter.

    Reference:

    - [Kingma and Ba, 2014](https://arxiv.org/abs/1412.6980), algorithm 1, in
      the order of section 2.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        name="fused_adam",
    ):
        super().__init__(learning_rate=learning_rate, name=name)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        size = sum(math.prod(variable.shape) for variable in variables)
        self._momentum, self._velocity = (
            self.add_variable((size,), "zeros", dtype="float32", name=name)
            for name in ("momentum", "velocity")
        )

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(trainable_variables)
        trained = trained_by(self)
        sizes = [math.prod(variable.shape) for variable in trained]
        flat = [
            ops.zeros((size,)) if each is None else ops.reshape(each, (size,))
            for each, size in zip(grads, sizes, strict=True)
        ]
        flat = [ops.cast(each, "float32") for each in flat]
        change = self._change(ops.concatenate(flat))
        parts = ops.split(change, np.cumsum(sizes)[:-1].tolist())
        for variable, part in zip(trained, parts, strict=True):
            part = ops.reshape(part, variable.shape)
            variable.assign_sub(ops.cast(part, variable.dtype))
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
        self.iterations.assign_add(1)

    def _change(self, gradient):
        """Updates the moving means; returns what weights lose."""
        step = ops.cast(self.iterations + 1, "float32")
        unbiased = ops.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        rate = ops.cast(self.learning_rate, "float32") * unbiased
        for mean, value, decay in (
            (self._momentum, gradient, self.beta_1),
            (self._velocity, ops.square(gradient), self.beta_2),
        ):
            mean.assign_add((value - mean) * (1 - decay))
        return rate * self._momentum / (ops.sqrt(self._velocity) + self.epsilon)

    def get_config(self):
        config = super().get_config()
        return {
            "name": config["name"],
            "learning_rate": config["learning_rate"],
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def adam(learning_rate) -> keras.optimizers.Optimizer:
    """Returns the quickest Adam there is for the devices in use.

    Args:
        learning_rate: Float or schedule.
    """
    kind = keras.optimizers.Adam if has_scope() else FusedAdam
    return kind(learning_rate)


def modular_adam_of(
    optimizer: keras.optimizers.Optimizer,
) -> ModularAdam | None:
    """Returns a model's `ModularAdam`, `None` if it trains with another.

    Keras wraps the optimiser to scale the loss under mixed_float16.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner if isinstance(inner, ModularAdam) else None


def optimizer_of(recipe: Recipe, num_adapted: int = 0) -> ModularAdam:
    """Returns a recipe's optimiser, with its rate for each kind of weight.

    Args:
        recipe: The recipe.
        num_adapted: Integer, layers whose output classes scale and shift.
            What they change adds up from layer to layer, so that in deep
            networks the recipe's rate would undo the source model.
    """
    adapt = recipe.adapt_rate / recipe.head_rate
    adapt *= min(1.0, FULL_RATE_LAYERS / max(num_adapted, 1)) ** 2
    by_importance = recipe.retention_target is not None
    return ModularAdam(
        recipe.head_rate,
        factors={
            "scale": adapt,
            "shift": adapt,
            "gain": adapt,
            "mask_scores": recipe.mask_rate / recipe.head_rate,
        },
        importance_steps=recipe.importance_steps if by_importance else None,
        final_rate=recipe.final_rate,
        epsilon=1e-8,
    )
