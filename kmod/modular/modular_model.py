"""The modular model: a source model with a kernel mask for every class."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.callbacks import BestModules
from kmod.data.batches import check_training
from kmod.data.batches import common_class_names
from kmod.data.batches import count_steps
from kmod.data.batches import fit_arguments
from kmod.data.batches import to_arrays
from kmod.data.image_data import LabelledImages
from kmod.data.replicas import check_hosts
from kmod.data.replicas import check_scope
from kmod.data.replicas import check_shards
from kmod.data.replicas import draw_by_image
from kmod.data.replicas import scope_of
from kmod.data.streaming import build_ahead
from kmod.data.streaming import predict
from kmod.data.streaming import streamed
from kmod.data.value_range import checked_range
from kmod.errors import UsageError
from kmod.files.names import MAX_CLASSES
from kmod.files.names import MAX_NAME
from kmod.files.names import unusable_names
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.calls import Trace
from kmod.graph.exactness import check_exactness
from kmod.graph.internals import parts_of
from kmod.graph.kernels import KernelTable
from kmod.graph.sizes import layer_macs
from kmod.graph.sources import functional_of
from kmod.metrics.calibration import fit_platt
from kmod.metrics.chance import NUM_SHOWN
from kmod.metrics.evaluate import answers
from kmod.modular.heads import Heads
from kmod.modular.importance import ImportanceUpdates
from kmod.modular.losses import UNSEEN
from kmod.modular.losses import distillation_loss
from kmod.modular.losses import indices_of
from kmod.modular.losses import loss_of
from kmod.modular.macs import Macs
from kmod.modular.mask_schedule import PhaseSchedule
from kmod.modular.mask_schedule import ScheduledMasks
from kmod.modular.masked_network import MaskedNetwork
from kmod.modular.negatives import IMAGES
from kmod.modular.negatives import NEGATIVES
from kmod.modular.negatives import check_negatives
from kmod.modular.negatives import rejection_loss
from kmod.modular.negatives import with_negatives
from kmod.modular.optimizer import modular_adam_of
from kmod.modular.optimizer import optimizer_of
from kmod.modular.placement import Placement
from kmod.modular.placement import place
from kmod.modular.placement import to_groups
from kmod.modular.recipe import Recipe
from kmod.modular.recipe import recipe_of
from kmod.modular.recipe import with_targets
from kmod.modular.stem import TEACHER
from kmod.modular.stem import cache_stem


class RetentionLogger(keras.callbacks.Callback):
    """Adds the retention rate to the logs, before other callbacks read them.

    Metrics inside layers would do it, but not on JAX.
    """

    def on_epoch_end(self, epoch, logs=None):
        logs["retention_rate"] = self.model.retention_rate


@keras.saving.register_keras_serializable(package="kmod")
class ModularModel(keras.Model):
    """A frozen source model in which every class has its own kernel mask.

    It answers one raw score per class and trains with `compile` and `fit` like
    any Keras model: masks, heads, scales, shifts and gains learn, the source's
    weights stay as they are. `decompose` then cuts a module out for each
    class.

    It is a Keras graph: `summary()` and `keras.utils.plot_model` show which
    layers are wrapped in `kmod.layers.ClassMasked`, and
    `get_layer(name).kernel_masks` what each class keeps of the channels that
    a layer reads.

    Args:
        source: Built Functional or Sequential classifier. It is copied, never
            changed.
        class_names: Names of its classes, in output order. Defaults to
            those that the data set given to `fit` has, and else to `"0"`,
            `"1"`, ...
        recipe: Name of a recipe, `"default"` or `"paper"`, or a `Recipe`.
        mask_from: Name of the first layer whose kernels masks may remove.
            The layers before it are a stem that all classes share. Defaults
            to the first layer.
        seed: Integer, seed of head start values and of drawn rows.
        dtype: Data type policy of the network. Defaults to the global one.
            Masks, heads, scales, shifts and gains are float32 in any case.
        value_range: Smallest and largest pixel value that the source model
            takes. Defaults to what `decompose` reads off its data.
        retention_target: Retention rate to come down to, 0 to 1. Defaults to
            the recipe's.
        macs_target: Multiply-accumulates that a composition of all modules
            may cost, as a multiple of the source model's. Defaults to the
            recipe's.
        output: Name of the source's output to take, of several.
        input_shape: Shape of the images, such as `(96, 96, 3)`; required
            where the source leaves sizes open.
        **kwargs: Base model keyword arguments, such as `name`.

    Call arguments:
        inputs: Images as the source model takes them, or what `stem` made of
            them; in training a dict of them as `images`, and `labels`, and
            `negatives` if there are any.

    Output shape:
        `(batch, num_classes)`: raw scores before calibration, any real number.

    Attributes:
        stem: Model from images to what no mask changes.
        chosen_epoch: What `kmod.callbacks.BestModules` restored when training
            ended: its `epoch`, `accuracy`, `retention_rate` and whether it
            `is_within_budget`. `None` if nothing was chosen.

    Raises:
        UnsupportedModelError: If the source model can not be taken apart, or
            with all kernels would answer otherwise than it does.
        UsageError: If `class_names`, `recipe`, a target, `mask_from`,
            `value_range`, `output` or `input_shape` do not fit it, if a
            `keras.distribution` is over several processes, or, from `fit`,
            if a target can not be reached.

    Example:

    ```python
    modular = kmod.ModularModel(
        source, class_names=["cat", "dog"], retention_target=0.4
    )
    modular.compile()
    modular.fit(
        train,
        validation_data=validation,
        epochs=10,
        callbacks=[kmod.callbacks.BestModules(accuracy_budget=0.01)],
    )
    modular.calibrate(validation)
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
        retention_target=None,
        macs_target=None,
        output=None,
        input_shape=None,
        **kwargs,
    ):
        check_hosts()
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        value_range = checked_range(value_range)
        recipe = with_targets(recipe_of(recipe), retention_target, macs_target)
        if output is not None:
            source = functional_of(source, output)
        whole = channel_graph(source, input_shape=input_shape)
        check_one_size(whole.trace)
        flat_source = rebuild(whole, dtype=policy.name)
        flat_source.trainable = False
        graph = channel_graph(flat_source)
        class_names = checked_names(class_names, graph.num_classes)
        placement = place(graph, mask_from, recipe.scale_and_shift)
        macs = Macs(graph, placement, layer_macs(flat_source))
        free_name = graph.trace.free_name
        masks = ScheduledMasks(
            graph.num_classes,
            placement,
            recipe,
            macs,
            name=free_name("masks"),
        )
        network = MaskedNetwork(
            graph,
            masks,
            placement.may_go,
            placement.adapted,
            placement.gained,
        )
        heads = Heads(
            graph.num_classes,
            recipe.hidden_units,
            seed,
            name=free_name("heads"),
            dtype="float32",
        )
        super().__init__(
            inputs=[network.image, network.classes],
            outputs=heads(network.logits, network.classes),
            **kwargs,
        )
        self.dtype_policy = policy
        self.input_spec = None  # Calls also take what `stem` made of images.
        self.value_range = value_range
        self.chosen_epoch = None
        self.recipe = recipe
        self.seed = seed
        self.class_names = class_names
        self.mask_from = mask_from
        self.num_classes = graph.num_classes
        self.flat_source = flat_source
        self.graph = graph
        self.placement = placement
        self.macs = macs
        self.masks = masks
        self.heads = heads
        self.network = network
        self.stem = keras.Model(
            network.image,
            {
                **network.stem.output,
                TEACHER: flat_source(network.image, training=False),
            },
            name="stem",
        )
        self._check_exactness(source, whole)
        self._add_own_weights()

    def _check_exactness(self, source, graph):
        """Compares the source with this network, or with one of its types."""
        policies = {
            layer.dtype_policy.name
            for call in graph.trace.calls
            if isinstance(call.operation, keras.layers.Layer)
            for layer in parts_of(call.operation)
        }
        own = {}
        if policies == {self.dtype_policy.name}:
            own = {"flat": self.graph, "logits": self.network.unmasked}
        check_exactness(source, graph, self.value_range, **own)

    def _add_own_weights(self):
        self.calibration = self.add_weight(
            name="calibration",
            shape=(self.num_classes, 2),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
        )
        self.calibration_images = self.add_weight(
            name="calibration_images",
            shape=(self.num_classes,),
            initializer="zeros",
            trainable=False,
            dtype="int32",
        )
        self.set_calibration(1, 0)
        # Keras does not save what generators have drawn: a resumed training
        # would draw the same rows again.
        self.draws = keras.random.SeedGenerator(self.seed)
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
        recipe = self.recipe
        with scope_of(self):
            super().compile(
                optimizer=optimizer
                or optimizer_of(recipe, len(self.placement.adapted)),
                loss=loss or loss_of(recipe, self.num_classes, self._num_rows),
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

    def fit(self, *args, negatives=None, **kwargs):
        """Trains masks, heads, scales, shifts and gains.

        Takes the arguments of `keras.Model.fit`, and `LabelledImages` where
        that takes data; labels are class indices or one-hot. They are read
        once before the first step, so that none is out of range. The recipe's
        schedule spans the epochs of one call; a further call goes on from the
        retention rate reached. `epochs` defaults to the recipe's phases where
        it has any, and phases switch between heads and masks.

        The stem is computed once for each image of an array and kept, if it
        takes at most 3 GiB, on disk if it is large. So a late `mask_from`
        makes steps cheap. A `numpy.memmap` is read batch by batch.

        Modules learn to answer no on `negatives`, if they are given: images of
        anything but the classes, as the source takes them, in an array, as
        labelled images whose labels do not matter, or in batched data.

        Returns:
            `keras.callbacks.History`; `retention_rate` at the end of each
            epoch is among its metrics.

        Raises:
            UsageError: If a target can not be reached, the length of the data
                is unknown, the recipe's phases need a `ModularAdam`,
                negatives are not as the source takes images, or the model was
                built for other devices or they can not share every batch.
            ValueError: If labels are not of the model's classes.
        """
        check_scope(self)
        check_targets(
            self.recipe,
            self.placement,
            self.macs,
            self.mask_from,
            self.graph.pins_in_words(),
        )
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        if "epochs" not in bound.arguments and self.recipe.phases:
            bound.arguments["epochs"] = self.recipe.epochs
        bound.apply_defaults()
        arguments = bound.arguments
        self._take_class_names(arguments["x"], arguments["validation_data"])
        _unpack_labelled(arguments)
        of_epoch = count_steps(arguments)
        check_shards(arguments)
        self._check_labels(arguments)
        if negatives is not None:
            negatives = check_negatives(
                negatives, self.flat_source.input_shape[1:], self.value_range
            )
        steps = of_epoch * arguments["epochs"]
        own = [RetentionLogger(), ImportanceUpdates(of_epoch, steps)]
        adam = modular_adam_of(self.optimizer)
        if self.recipe.phases:
            check_optimizer(self.optimizer, adam)
            own.append(PhaseSchedule())
        given = tree.flatten(arguments["callbacks"] or [])
        self._measure_source(given, arguments["validation_data"])
        if arguments["initial_epoch"] < arguments["epochs"]:
            self._cache_stems(arguments)
        arguments["callbacks"] = own + given
        self.masks.start(steps)
        build_ahead(self, arguments["y"], self.num_classes)
        if adam:
            adam.restart(steps)
        if negatives is not None:
            arguments.update(
                with_negatives(arguments, negatives.images, self.stem)
            )
        arguments.update(streamed(arguments))
        return super().fit(*bound.args, **bound.kwargs)

    def _take_class_names(self, *data):
        """Takes the class names that data have, where none were given."""
        numbers = checked_names(None, self.num_classes)
        given = None if self.class_names == numbers else self.class_names
        names = common_class_names(given, *data)
        self.class_names = checked_names(names, self.num_classes)

    def _check_labels(self, arguments):
        shape = self.flat_source.input_shape[1:]
        check_training(arguments, self.num_classes, shape, self.value_range)
        if arguments["validation_data"] is not None:
            validation = fit_arguments(
                arguments["validation_data"],
                None,
                arguments["validation_steps"],
            )
            check_training(validation, self.num_classes)

    def _measure_source(self, callbacks, validation_data):
        """Tells callbacks that choose how good the source model is."""
        for callback in callbacks:
            if not isinstance(callback, BestModules) or not validation_data:
                continue
            if callback.source_accuracy is None:
                labels, found, _ = answers(self.flat_source, validation_data)
                callback.source_accuracy = float(np.mean(found == labels))

    def _cache_stems(self, arguments):
        if isinstance(arguments["x"], np.ndarray):
            arguments["x"] = cache_stem(self.stem, arguments["x"])
        validation = arguments["validation_data"]
        if isinstance(validation, tuple):
            images, *others = validation
            if isinstance(images, np.ndarray):
                images = cache_stem(self.stem, images)
            arguments["validation_data"] = (images, *others)

    def train_step(self, *args):
        # JAX passes its state in front of the data, TensorFlow does not.
        *state, data = args
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not (isinstance(x, dict) and NEGATIVES in x):
            x = {IMAGES: x}
        x = {**x, "labels": y}
        return super().train_step(*state, (x, y, sample_weight))

    def call(self, inputs, training=False):
        images, classes, negatives = inputs, None, None
        if isinstance(inputs, dict) and IMAGES in inputs:
            images, negatives = inputs[IMAGES], inputs.get(NEGATIVES)
            if "labels" in inputs:
                classes = self._classes(inputs["labels"])
        masks = self.masks(training=training)
        scores = self.heads(self.network(images, masks, classes), classes)
        if training and negatives is not None:
            self.add_loss(self._rejection(negatives, masks))
        if training and self.recipe.distillation:
            self.add_loss(
                self.recipe.distillation
                * self._distillation(images, scores, classes)
            )
        if classes is None:
            return scores
        return by_class(scores, classes, self.num_classes)

    def add_loss(self, loss):
        # Functional models refuse losses that a call adds.
        keras.layers.Layer.add_loss(self, loss)

    def _rejection(self, negatives, masks):
        count = ops.shape(tree.flatten(negatives)[0])[0]
        own = draw_by_image(  # Of each image any of them, as if its own.
            lambda count: keras.random.randint(
                (count,), 0, self.num_classes, seed=self.draws
            ),
            count,
        )
        classes = self._classes(own)
        logits = self.network(negatives, masks, classes)
        scores = self.heads(logits, classes)
        return rejection_loss(scores, self.num_classes)

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
        return sample_rows(
            indices_of(labels), self.num_classes, self._num_rows, self.draws
        )

    def calibrate(self, x: Any, y: Any = None) -> None:
        """Fits how raw scores become probabilities, on validation data.

        Each module gets a scale and a shift of its own (Platt scaling), so
        that the sigmoid of its score is the probability of its class and
        scores of different models can be compared. That is so where classes
        are as frequent as in these images; how many there were of each is
        kept, so that a composition can take it off again.

        Args:
            x: Validation images `(n, ...)`, or labelled data: a tuple
                `(images, labels)`, `LabelledImages` or a batched data set.
            y: Class indices `(n,)` or one-hot, if `x` is images.

        Raises:
            ValueError: If labels are not of the model's classes.

        Reference:

        - Platt, 1999, "Probabilistic outputs for support vector machines".
        """
        images, labels = to_arrays(
            x if y is None else (x, y), num_classes=self.num_classes
        )
        raw = predict(self, images, 64)
        fits = [
            fit_platt(raw[:, index], labels == index) or (1.0, 0.0)
            for index in range(self.num_classes)
        ]
        counts = np.bincount(labels, minlength=self.num_classes)
        self.set_calibration(*np.transpose(fits), counts)

    def set_calibration(self, scale, shift, num_images=0):
        """Sets how raw scores become log-odds: `scale * score + shift`.

        Args:
            scale: Number or array `(num_classes,)`.
            shift: Number or array `(num_classes,)`.
            num_images: Integer array `(num_classes,)`, how many images of
                each class the two were fitted on. Defaults to 0, not known.
        """
        values = np.zeros((self.num_classes, 2), "float32")
        values[:, 0], values[:, 1] = scale, shift
        self.calibration.assign(values)
        counts = np.zeros(self.num_classes, "int32")
        counts[:] = num_images
        self.calibration_images.assign(counts)

    @property
    def is_calibrated(self) -> bool:
        """Whether any score has a calibration other than itself."""
        return bool(np.any(ops.convert_to_numpy(self.calibration) != (1, 0)))

    def class_log_odds(
        self,
        x,
        batch_size: int = 64,
        class_indices: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Returns calibrated scores before the sigmoid, `(batch, classes)`.

        Args:
            x: Images as the source model takes them, `(batch, ...)`.
            batch_size: Integer, images to a step.
            class_indices: Classes whose modules run. Defaults to all.
        """
        model = self
        if class_indices is not None:
            model = ModularRows(self, class_indices)
        raw = predict(model, x, batch_size)
        scale, shift = ops.convert_to_numpy(self.calibration).T
        if class_indices is not None:
            scale, shift = scale[class_indices], shift[class_indices]
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
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "source": keras.saving.serialize_keras_object(self.flat_source),
            "class_names": list(self.class_names),
            "recipe": self.recipe.as_dict(),
            "mask_from": self.mask_from,
            "seed": self.seed,
            "value_range": self.value_range and list(self.value_range),
            "retention_target": self.recipe.retention_target,
            "macs_target": self.recipe.macs_target,
            "output": None,  # The source kept has one, of one size.
            "input_shape": list(self.flat_source.input_shape[1:]),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        source = keras.saving.deserialize_keras_object(
            config["source"], custom_objects
        )
        recipe = Recipe.from_dict(config["recipe"])
        return cls(**{**config, "source": source, "recipe": recipe})


class ModularRows(keras.Model):
    """Runs the modules of some classes of a modular model.

    Args:
        modular: The modular model.
        class_indices: Indices of the classes, in the order of the output.

    Output shape:
        `(batch, num_class_indices)`: raw scores before calibration.
    """

    def __init__(self, modular, class_indices):
        super().__init__(dtype=modular.dtype_policy)
        self.modular = modular
        self.class_indices = list(class_indices)

    def call(self, images):
        count, modular = ops.shape(images)[0], self.modular
        classes = ops.broadcast_to(
            ops.convert_to_tensor(self.class_indices, "int32"),
            (count, len(self.class_indices)),
        )
        masks = modular.masks(training=False)
        return modular.heads(modular.network(images, masks, classes), classes)


def check_one_size(traced: Trace) -> None:
    """Refuses a source model that takes images of any size.

    Raises:
        UsageError: If its input leaves a size open.
    """
    shape = traced.input.shape[1:]
    if None in shape:
        raise UsageError(
            "`input_shape` must say the size of images, because modules take "
            f"one size. Received: {traced.name!r}, which takes images of "
            f"shape {shape}. Give it, such as input_shape=(96, 96, 3)."
        )


def check_optimizer(optimizer, adam) -> None:
    """Refuses to run a recipe's phases with another optimiser.

    Raises:
        UsageError: If the optimiser is not a `ModularAdam`.
    """
    if adam is None:
        raise UsageError(
            "A recipe with phases trains with `ModularAdam`. Received: an "
            f"optimiser of type {type(optimizer).__name__}. Call `compile()` "
            "without an optimiser."
        )


def _unpack_labelled(arguments):
    """Takes images and labels out of `LabelledImages`, in place."""
    if isinstance(arguments["x"], LabelledImages):
        data = arguments["x"]
        arguments["x"], arguments["y"] = data.images, data.labels
    if isinstance(arguments["validation_data"], LabelledImages):
        data = arguments["validation_data"]
        arguments["validation_data"] = (data.images, data.labels)


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
    luck = draw_by_image(
        lambda count: keras.random.uniform((count, num_classes), seed=seed),
        ops.shape(labels)[0],
    )
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
        UsageError: If they are not `num_classes` different names, or a spec
            could not name one, or there are too many for a store.
    """
    if num_classes > MAX_CLASSES:
        raise UsageError(
            f"A store has modules of at most {MAX_CLASSES:,} classes. "
            f"Received: a model of {num_classes:,}. Take one of fewer."
        )
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
            f"each output of the model. Received: {list(names)}. Name each "
            "class once, in the order of the outputs."
        )
    if faults := unusable_names(names):
        raise UsageError(
            "`class_names` must be what a spec can name: one line of at most "
            f"{MAX_NAME} characters, no two that look the same. Received: "
            f"{', '.join(faults[:NUM_SHOWN])}. Rename them."
        )
    return names


def check_targets(
    recipe: Recipe,
    placement: Placement,
    macs: Macs,
    mask_from: str | None,
    pins: str = "",
) -> None:
    """Refuses targets that masks can not come down to.

    Args:
        recipe: Recipe with the targets.
        placement: What masks may remove.
        macs: What modules cost.
        mask_from: First layer whose kernels may go.
        pins: What pins kernels, in sentences.

    Raises:
        UsageError: If more than a target can not be removed.
    """
    target, least = recipe.retention_target, placement.least_retention
    if target is not None and target < least:
        raise UsageError(
            "`retention_target` must be at least the share of kernels that "
            f"can not be removed, {least:.3f} with mask_from={mask_from!r}. "
            f"Received: retention_target={target}. "
            f"{pins and pins + ' '}Mask from an earlier layer on, or raise "
            "the target."
        )
    target, least = recipe.macs_target, float(macs.stem / macs.total)
    if target is not None and target <= least:
        raise UsageError(
            "`macs_target` must be above the stem's share of the source "
            f"model's multiply-accumulates, {least:.3f} with "
            f"mask_from={mask_from!r}. Received: macs_target={target}. Mask "
            "from an earlier layer on, or raise the target."
        )
