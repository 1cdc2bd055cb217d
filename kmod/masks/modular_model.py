"""The modular model: a source model with a kernel mask for every class."""

import inspect

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.exactness import check_exactness
from kmod.graph.kernels import KernelTable
from kmod.masks.arguments import check_targets
from kmod.masks.arguments import checked_names
from kmod.masks.arguments import checked_range
from kmod.masks.calibrated_scores import CalibratedScores
from kmod.masks.defaults import loss_of
from kmod.masks.defaults import optimizer_of
from kmod.masks.front import TEACHER
from kmod.masks.heads import Heads
from kmod.masks.importance_updates import ImportanceUpdates
from kmod.masks.kernel_masks import KernelMasks
from kmod.masks.kernel_masks import to_groups
from kmod.masks.losses import distillation_loss
from kmod.masks.macs import Macs
from kmod.masks.masked_network import MaskedNetwork
from kmod.masks.masked_network import unmasked_network
from kmod.masks.optimizer import modular_adam_of
from kmod.masks.placement import place
from kmod.masks.recipe import Recipe
from kmod.masks.recipe import recipe_of
from kmod.masks.retention_logger import RetentionLogger
from kmod.masks.rows import by_class
from kmod.masks.rows import sample_rows
from kmod.masks.steps import count_steps


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
