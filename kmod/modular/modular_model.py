"""The modular model: a source model with a kernel mask for every class."""

import inspect
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.exactness import check_exactness
from kmod.graph.kernels import KernelTable
from kmod.modular.front import TEACHER
from kmod.modular.heads import Heads
from kmod.modular.importance import ImportanceUpdates
from kmod.modular.kernel_masks import KernelMasks
from kmod.modular.kernel_masks import to_groups
from kmod.modular.losses import UNSEEN
from kmod.modular.losses import ModuleLoss
from kmod.modular.losses import SigmoidCrossEntropy
from kmod.modular.losses import distillation_loss
from kmod.modular.macs import Macs
from kmod.modular.masked_network import MaskedNetwork
from kmod.modular.masked_network import unmasked_network
from kmod.modular.optimizer import ModularAdam
from kmod.modular.optimizer import modular_adam_of
from kmod.modular.placement import Placement
from kmod.modular.placement import place
from kmod.modular.recipe import Recipe
from kmod.modular.recipe import recipe_of
from kmod.modular.steps import count_steps


class RetentionLogger(keras.callbacks.Callback):
    """Adds the retention rate to the logs, before other callbacks read them.

    Metrics inside layers would do it, but not on JAX.
    """

    def on_epoch_end(self, epoch, logs=None):
        logs["retention_rate"] = self.model.retention_rate


class CalibratedScores:
    """Turns the raw scores of a modular model into probabilities.

    The model that inherits it has a weight `calibration`, `(num_classes, 2)`:
    each module's scale and shift.
    """

    def set_calibration(self, scale, shift):
        """Sets how raw scores become log-odds: `scale * score + shift`.

        Args:
            scale: Number or array `(num_classes,)`.
            shift: Number or array `(num_classes,)`.
        """
        values = np.zeros((self.num_classes, 2), "float32")
        values[:, 0], values[:, 1] = scale, shift
        self.calibration.assign(values)

    def class_log_odds(self, x, batch_size: int = 64) -> np.ndarray:
        """Returns calibrated scores before the sigmoid, `(batch, classes)`."""
        raw = self.predict(x, batch_size=batch_size, verbose=0)
        scale, shift = ops.convert_to_numpy(self.calibration).T
        return raw * scale + shift

    def class_scores(
        self, x, class_indices: Sequence[int] | None = None
    ) -> np.ndarray:
        """Returns what the modules will answer.

        Args:
            x: Images as the source model takes them, `(batch, ...)`.
            class_indices: Classes to return. Defaults to all.

        Returns:
            float32 array `(batch, classes)`: for each class the probability
            that an image shows it.
        """
        log_odds = ops.convert_to_tensor(self.class_log_odds(x))
        scores = ops.convert_to_numpy(ops.sigmoid(log_odds))
        return scores if class_indices is None else scores[:, class_indices]


@keras.saving.register_keras_serializable(package="kmod")
class ModularModel(CalibratedScores, keras.Model):
    """A frozen source model in which every class has its own kernel mask.

    It answers one raw score per class and trains with `compile` and `fit` like
    any Keras model: masks, heads, scales, shifts and gains learn, the source's
    weights stay as they are. `decompose` then cuts a module out for each
    class.

    Args:
        source: Built Functional or Sequential classifier. It is copied, never
            changed.
        class_names: Names of its classes, in output order. Defaults to
            `"0"`, `"1"`, ...
        recipe: Name of a recipe, `"default"` or `"paper"`, or a `Recipe`.
        mask_from: Name of the first layer whose kernels masks may remove.
            The layers before it are a stem that all classes share. Defaults
            to the first layer.
        seed: Integer, seed of head start values and of drawn rows.
        dtype: Data type policy of the network. Defaults to the global one.
            Masks, heads, scales, shifts and gains are float32 in any case.
        value_range: Smallest and largest pixel value that the source model
            takes. Defaults to what `decompose` reads off its data.
        **kwargs: Base model keyword arguments, such as `name`.

    Call arguments:
        inputs: Images as the source model takes them, or what `cache_front`
            made of them; in training a dict of them as `images`, and
            `labels`.

    Output shape:
        `(batch, num_classes)`: raw scores before calibration, any real number.

    Raises:
        UnsupportedModelError: If the source model can not be taken apart, or
            with all kernels would answer otherwise than it does.
        UsageError: If `class_names`, `recipe`, `mask_from` or `value_range`
            do not fit it, or, from `fit`, if the retention target can not be
            reached.

    Example:

    ```python
    modular = kmod.ModularModel(source, class_names=["cat", "dog"])
    modular.compile()
    modular.fit(x_train, y_train, epochs=8)
    ```
    """

    def __init__(
        self,
        source,
        class_names=None,
        recipe="default",
        mask_from=None,
        seed=0,
        dtype=None,
        value_range=None,
        **kwargs,
    ):
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        super().__init__(dtype=policy, **kwargs)
        self.value_range = checked_range(value_range)
        whole = channel_graph(source)
        self.flat_source = rebuild(whole, dtype=policy.name)
        self.flat_source.trainable = False
        self.graph = channel_graph(self.flat_source)
        self.num_classes = self.graph.num_classes
        self.class_names = checked_names(class_names, self.num_classes)
        self.recipe = recipe_of(recipe)
        self.mask_from = mask_from
        self.seed = seed
        self.placement = place(
            self.graph, mask_from, self.recipe.scale_and_shift
        )
        self.network = MaskedNetwork(
            self.graph,
            self.placement.may_go,
            self.placement.adapted,
            self.placement.gained,
        )
        self._check_exactness(source, whole)
        self.macs = Macs(self.graph, self.placement, self.flat_source)
        self.masks = KernelMasks(
            self.num_classes,
            self.placement,
            self.recipe,
            self.macs,
            name="masks",
        )
        self.heads = Heads(
            self.num_classes, self.recipe.hidden_units, seed, name="heads"
        )
        self.heads.build((None, None, self.num_classes))
        self.draws = keras.random.SeedGenerator(seed)
        self._add_weights()
        self.built = True

    def _check_exactness(self, source, graph):
        """Compares the source with this network, or with one of its types."""
        network = self.network
        policies = {
            layer.dtype_policy.name
            for call in graph.trace.calls
            if isinstance(call.operation, keras.layers.Layer)
            for layer in call.operation._flatten_layers()
        }
        if policies != {self.dtype_policy.name}:
            network = unmasked_network(graph)
        check_exactness(
            source, graph, network.graph, network.unmasked, self.value_range
        )

    def _add_weights(self):
        def add(name, columns, start, trainable=True):
            return self.add_weight(
                name=name,
                shape=(self.num_classes, columns),
                initializer=start,
                trainable=trainable and columns > 0,
                dtype="float32",
                autocast=False,
            )

        self.scale = add("scale", self.placement.num_adapted, "ones")
        self.shift = add("shift", self.placement.num_adapted, "zeros")
        self.gain = add("gain", self.placement.num_gained, "ones")
        self.calibration = add("calibration", 2, "zeros", trainable=False)
        self.set_calibration(1, 0)
        # Keras does not save what generators have drawn: a resumed training
        # would draw the same rows again.
        start = ops.convert_to_numpy(self.draws.state)
        self.draws.state = self.add_weight(
            name="draws", shape=start.shape, dtype=start.dtype, trainable=False
        )
        self.draws.state.assign(start)

    def compile(self, optimizer=None, loss=None, metrics=None, **kwargs):
        """Configures training; each default is the recipe's.

        Args:
            optimizer: Keras optimiser. Defaults to a `ModularAdam`.
            loss: Loss on raw scores `(batch, num_classes)`. Defaults to
                `ModuleLoss`, or the published loss for the paper's recipe.
            metrics: Defaults to accuracy. In training it counts among the
                modules that saw an image, in evaluation among all.
            **kwargs: Arguments of `keras.Model.compile`.
        """
        super().compile(
            optimizer=optimizer or optimizer_of(self.recipe),
            loss=loss or loss_of(self.recipe, self.num_classes, self._num_rows),
            metrics=["accuracy"] if metrics is None else metrics,
            **kwargs,
        )

    @property
    def _num_rows(self):
        rows = self.recipe.rows_per_image or self.num_classes
        return min(rows, self.num_classes)

    def get_compile_config(self):
        return {"recipe": self.recipe.name}  # Empty, it would not be read.

    def compile_from_config(self, config):
        """Compiles a loaded model with its recipe's defaults."""
        self.compile()
        self.optimizer.build(self.trainable_variables)

    def fit(self, *args, **kwargs):
        """Trains masks, heads, scales, shifts and gains.

        Takes the arguments of `keras.Model.fit`; labels are integer class
        indices. The recipe's schedule spans the epochs of one call; a further
        call goes on from the retention rate reached. `epochs` defaults to
        the recipe's phases where it has any.

        Returns:
            `keras.callbacks.History`; `retention_rate` at the end of each
            epoch is among its metrics.
        """
        check_targets(self.recipe, self.placement, self.macs, self.mask_from)
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        if "epochs" not in bound.arguments and self.recipe.phases:
            bound.arguments["epochs"] = self.recipe.epochs
        bound.apply_defaults()
        of_epoch = count_steps(bound.arguments)
        steps = of_epoch * bound.arguments["epochs"]
        own = [RetentionLogger(), ImportanceUpdates(of_epoch, steps)]
        given = tree.flatten(bound.arguments["callbacks"] or [])
        bound.arguments["callbacks"] = own + given
        self.masks.start(steps)
        if adam := modular_adam_of(self.optimizer):
            self.optimizer.build(self.trainable_variables)
            adam.restart(steps)
        return super().fit(*bound.args, **bound.kwargs)

    def train_step(self, *args):
        # JAX passes its state in front of the data, TensorFlow does not.
        *state, data = args
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = {"images": x, "labels": y}
        return super().train_step(*state, (x, y, sample_weight))

    def call(self, inputs, training=False):
        images, classes = inputs, None
        if isinstance(inputs, dict) and "labels" in inputs:
            images = inputs["images"]
            classes = self._classes(inputs["labels"])
        logits = self.network(
            images,
            self.masks(training=training),
            self.scale.value,
            self.shift.value,
            self.gain.value,
            classes,
        )
        scores = self.heads(logits, classes)
        if training and self.recipe.distillation:
            self.add_loss(
                self.recipe.distillation
                * self._distillation(images, scores, classes)
            )
        if classes is None:
            return scores
        return by_class(scores, classes, self.num_classes)

    def _distillation(self, images, scores, classes):
        if isinstance(images, dict):
            teacher = images[TEACHER]
        else:
            teacher = self.flat_source(images, training=False)
        return distillation_loss(
            scores,
            ops.stop_gradient(ops.cast(teacher, "float32")),
            classes,
            self.recipe.temperature,
        )

    def _classes(self, labels):
        if self._num_rows == self.num_classes:
            return None
        labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
        return sample_rows(labels, self.num_classes, self._num_rows, self.draws)

    @property
    def kernels(self) -> KernelTable:
        """Table of all kernels: kernel id to layer, index and group."""
        return self.graph.kernels

    @property
    def kernel_masks(self) -> np.ndarray:
        """Kernel masks, int64 `(num_classes, num_kernels)` of 0 and 1.

        They are those of the last training step. Setting them also sets the
        mask scores; kernels of one group must agree, and what can not be
        removed must be 1.
        """
        mask = ops.convert_to_numpy(self.masks.mask)
        return mask[:, self.kernels.groups].astype("int64")

    @kernel_masks.setter
    def kernel_masks(self, masks):
        self.masks.set_masks(
            to_groups(masks, self.kernels, self.placement, self.num_classes)
        )

    @property
    def retention_rate(self) -> float:
        """Kept kernels ÷ all kernels, averaged over classes, 0 to 1."""
        return self.masks.retention()

    def get_config(self):
        return {
            **super().get_config(),
            "source": keras.saving.serialize_keras_object(self.flat_source),
            "class_names": list(self.class_names),
            "recipe": self.recipe.as_dict(),
            "mask_from": self.mask_from,
            "seed": self.seed,
            "value_range": self.value_range and list(self.value_range),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        source = keras.saving.deserialize_keras_object(
            config["source"], custom_objects
        )
        recipe = Recipe.from_dict(config["recipe"])
        return cls(**{**config, "source": source, "recipe": recipe})


def optimizer_of(recipe: Recipe) -> ModularAdam:
    """Returns a recipe's optimiser, with its rate for each kind of weight."""
    adapt = recipe.adapt_rate / recipe.head_rate
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


def loss_of(
    recipe: Recipe, num_classes: int, num_rows: int
) -> keras.losses.Loss:
    """Returns a recipe's loss on raw scores.

    Args:
        recipe: The recipe.
        num_classes: Integer, number of modules.
        num_rows: Integer, modules that see an image; those that do not own
            it stand for all others.
    """
    if recipe.published_loss:
        return SigmoidCrossEntropy()
    return ModuleLoss(negative_weight=(num_classes - 1) / (num_rows - 1))


def sample_rows(labels, num_classes: int, num_rows: int, seed):
    """Draws the modules that see each image.

    Args:
        labels: Integer tensor `(batch,)`, the images' classes.
        num_classes: Integer, number of modules.
        num_rows: Integer, modules per image.
        seed: Integer or `keras.random.SeedGenerator`.

    Returns:
        int32 tensor `(batch, num_rows)`: the image's own class, then others
        without repetition.
    """
    own = ops.one_hot(labels, num_classes)
    luck = keras.random.uniform((ops.shape(labels)[0], num_classes), seed=seed)
    _, others = ops.top_k(luck - 2.0 * ops.cast(own, luck.dtype), num_rows - 1)
    return ops.concatenate(
        [ops.cast(labels[:, None], "int32"), ops.cast(others, "int32")], axis=1
    )


def by_class(scores, classes, num_classes: int):
    """Writes the scores of sampled rows into one column for each class.

    Args:
        scores: Float tensor `(batch, rows)`.
        classes: Integer tensor `(batch, rows)`.
        num_classes: Integer, number of columns.

    Returns:
        Tensor `(batch, num_classes)` that holds `UNSEEN` where no row is.
    """
    places = ops.one_hot(classes, num_classes, dtype=scores.dtype)
    seen = ops.sum(places, axis=1)
    values = ops.sum(places * scores[..., None], axis=1)
    return values + (1 - seen) * UNSEEN


def checked_names(
    class_names: Sequence[str] | None, num_classes: int
) -> tuple[str, ...]:
    """Returns class names, numbers as text where none are given.

    Raises:
        UsageError: If they are not `num_classes` different names.
    """
    if class_names is None:
        return tuple(str(index) for index in range(num_classes))
    names = tuple(class_names)
    if (
        len(set(names)) != num_classes
        or len(names) != num_classes
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise UsageError(
            f"`class_names` must be {num_classes} different names, one for "
            f"each output of the source model. Received: {list(names)}"
        )
    return names


def checked_range(
    value_range: Sequence[float] | None,
) -> tuple[float, float] | None:
    """Returns a value range as two floats, `None` where none is given.

    Raises:
        UsageError: If it is not a smaller and a larger number.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise UsageError(
            "`value_range` must be the smallest and the largest pixel value "
            "that the source model takes, such as (0, 255). Received: "
            f"value_range={value_range!r}"
        )
    return low, high


def check_targets(
    recipe: Recipe, placement: Placement, macs: Macs, mask_from: str | None
) -> None:
    """Refuses targets that masks can not come down to.

    Raises:
        UsageError: If more than a target can not be removed.
    """
    target, least = recipe.retention_target, placement.least_retention
    if target is not None and target < least:
        raise UsageError(
            "`retention_target` must be at least the share of kernels that "
            f"can not be removed, {least:.3f} with mask_from={mask_from!r}. "
            f"Received: retention_target={target}. Mask from an earlier layer "
            "on, or raise the target."
        )
    target, least = recipe.macs_target, float(macs.stem / macs.total)
    if target is not None and target <= least:
        raise UsageError(
            "`macs_target` must be above the stem's share of the source "
            f"model's multiply-accumulates, {least:.3f} with "
            f"mask_from={mask_from!r}. Received: macs_target={target}. Mask "
            "from an earlier layer on, or raise the target."
        )
