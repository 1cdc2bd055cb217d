"""The wrappers that mask what a layer reads, class by class."""

import math

import keras
import numpy as np
from keras import backend
from keras import ops

from kmod.graph.internals import calls_of
from kmod.graph.internals import made_by
from kmod.graph.internals import takes_training
from kmod.layers.kernel_masks import KernelMasks
from kmod.layers.rows import ClassScaleShift
from kmod.layers.rows import MaskRows
from kmod.layers.rows import add_table
from kmod.layers.rows import apply_by_row
from kmod.layers.rows import rows_of

# Layers that normalise over the channels that are kept. `UnitNormalization`
# does so by itself, where the others are zero.
NORMALISERS = (
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


@keras.saving.register_keras_serializable(package="kmod")
class ClassMasked(keras.layers.Wrapper):
    """Gives each class a mask of the channels that a layer reads.

    Each row runs through the wrapped layer with its own module's mask and
    gain in front, and its own scale and shift behind. The mask stands
    just before a layer that mixes channels, behind normalisation, activation
    and pooling, where zero means the same as absent: so a layer that is cut
    to the kept channels answers the same.

    Args:
        layer: Layer that mixes channels, such as `Conv2D` or `Dense`.
        num_classes: Integer, number of modules.
        kernels: Integers, for each channel that the layer reads its kernel's
            column in `kernel_masks`, -1 for a channel that always stays.
            Defaults to 0, 1, 2, ...
        axis: Integer, channel axis of what the layer reads and makes. Defaults
            to the last one.
        branches: Boolean, whether rows branch here, so that the layer reads
            one entry for each image. Defaults to `False`.
        gain: Boolean, whether each class has a gain for each channel that
            the layer reads. Defaults to `True`.
        scale_and_shift: Boolean, whether each class scales and shifts the
            channels that the layer makes. Defaults to `True`.
        **kwargs: Base layer keyword arguments. The name defaults to the
            layer's.

    Call arguments:
        inputs: Float tensor `(batch, ...)` if rows branch here, otherwise
            `(batch * rows, ...)`.
        kernel_masks: Tensor `(num_classes, num_kernels)` of 0 and 1, what a
            `KernelMasks` layer answers, or what `MaskRows` made of it; several
            wrappers may read one.
        classes: Integer tensor `(batch, rows)`, the module of each row.
            Defaults to all modules in order.

    Output shape:
        `(batch * rows, ...)`.

    Example:

    ```python
    image = keras.Input((32, 32, 3))
    classes = keras.Input((1,), dtype="int32")
    masks = kmod.layers.KernelMasks(num_classes=10, num_kernels=16)(image)
    x = keras.layers.Conv2D(16, 3, activation="relu")(image)
    x = kmod.layers.ClassMasked(
        keras.layers.Conv2D(32, 3), num_classes=10, branches=True
    )(x, masks, classes)
    ```
    """

    def __init__(
        self,
        layer,
        num_classes,
        kernels=None,
        axis=-1,
        branches=False,
        gain=True,
        scale_and_shift=True,
        **kwargs,
    ):
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, autocast=False, **kwargs)
        self.num_classes = num_classes
        self.kernels = None if kernels is None else np.asarray(kernels)
        self.axis = axis
        self.branches = branches
        self.has_gain = gain
        self.adapter = None
        if scale_and_shift:
            self.adapter = ClassScaleShift(
                num_classes, axis, name="adapter", dtype=self.dtype_policy
            )

    def build(self, inputs_shape, kernel_masks_shape, classes_shape=None):
        channels, num_kernels = inputs_shape[self.axis], kernel_masks_shape[-1]
        if self.kernels is None:
            self.kernels = np.arange(channels)
        known = (-1 <= self.kernels) & (self.kernels < num_kernels)
        if len(self.kernels) != channels or not known.all():
            raise ValueError(
                "`kernels` must have one column of `kernel_masks`, or -1, for "
                f"each channel that layer {self.layer.name!r} reads: "
                f"{channels} numbers below {num_kernels}. Received: "
                f"kernels={self.kernels.tolist()}"
            )
        self.gain = None
        if self.has_gain:
            shape = (self.num_classes, channels)
            self.gain = add_table(self, "gain", shape, "ones")
        super().build(inputs_shape)
        if self.adapter is not None:
            self.adapter.build(self.layer.compute_output_shape(inputs_shape))

    def call(self, inputs, kernel_masks, classes=None, training=False):
        factor = self._factor(kernel_masks, classes)
        outputs = self._call_layer(inputs, factor, training)
        if self.adapter is not None:
            outputs = self.adapter(outputs, classes)
        return outputs

    def _factor(self, kernel_masks, classes):
        """Returns masks times gains by row, `(batch, rows, channels)`."""
        gains = () if self.gain is None else (self.gain.value,)
        masks = self._channel_masks(kernel_masks)
        if len(masks.shape) == 3:
            return math.prod((masks, *rows_of(gains, classes)))
        (factor,) = rows_of((math.prod((masks, *gains)),), classes)
        return factor

    def _call_layer(self, inputs, factor, training):
        """Calls the layer on channels times what is of their row."""
        values = apply_by_row(
            ops.multiply, inputs, (factor,), self.axis, self.branches
        )
        options = {}
        if takes_training(self.layer):
            options["training"] = training
        return self.layer(values, **options)

    def _channel_masks(self, kernel_masks):
        kept = ops.ones_like(kernel_masks[..., :1])
        table = ops.concatenate([kernel_masks, kept], axis=-1)
        last = kernel_masks.shape[-1]
        columns = np.where(self.kernels < 0, last, self.kernels)
        return ops.take(table, columns, axis=-1)

    def compute_output_spec(
        self, inputs, kernel_masks, classes=None, training=False
    ):
        made = self.layer.compute_output_spec(inputs)
        return keras.KerasTensor((None, *made.shape[1:]), made.dtype)

    @property
    def kernel_masks(self) -> np.ndarray:
        """What each class keeps of the channels that the layer reads.

        int64 array `(num_classes, channels)` of 0 and 1, by the `KernelMasks`
        layer that the Functional graph has in front.

        Raises:
            AttributeError: If there is none, outside a graph.
        """
        for node in calls_of(self):
            for tensor in node.input_tensors:
                masks = made_by(tensor)
                if isinstance(masks, MaskRows):
                    masks = made_by(calls_of(masks)[0].input_tensors[0])
                if isinstance(masks, KernelMasks):
                    table = self._channel_masks(masks.mask.value)
                    return ops.convert_to_numpy(table).astype("int64")
        raise AttributeError(
            "`kernel_masks` needs a graph with a `KernelMasks` layer in front. "
            f"Received: {self.name!r} without one. Read the masks where they "
            "come from."
        )

    def get_config(self):
        kernels = self.kernels
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "kernels": None if kernels is None else kernels.tolist(),
            "axis": self.axis,
            "branches": self.branches,
            "gain": self.has_gain,
            "scale_and_shift": self.adapter is not None,
        }


@keras.saving.register_keras_serializable(package="kmod")
class ClassMaskedNormalization(ClassMasked):
    """Gives each class a mask of the channels that a layer normalises over.

    Mean and variance are those of the channels that a row's module keeps: so
    a layer that is cut to the kept channels answers the same.

    Args:
        layer: `LayerNormalization`, `RMSNormalization`, or
            `GroupNormalization` of one group.
        num_classes: Integer, number of classes.
        **kwargs: Arguments of `ClassMasked`, but for `gain`.

    Call arguments, output shape: as in `ClassMasked`. What is made of the
    channels that are not kept means nothing.
    """

    def __init__(self, layer, num_classes, **kwargs):
        super().__init__(layer, num_classes, gain=False, **kwargs)

    def _call_layer(self, inputs, factor, training):
        outputs = apply_by_row(
            self._normalise,
            ops.cast(inputs, backend.result_type(inputs.dtype, "float32")),
            (factor,),
            self.axis,
            self.branches,
        )
        return ops.cast(outputs, self.layer.compute_dtype)

    def _normalise(self, values, mask):
        """Normalises `(batch, rows, ...)` over what a mask keeps."""
        layer, rank = self.layer, len(values.shape) - 1
        of_weights = [axis % rank + 1 for axis in np.atleast_1d(layer.axis)]
        axes = of_weights
        if isinstance(layer, keras.layers.GroupNormalization):
            axes = list(range(2, rank + 1))
        count = ops.maximum(ops.sum(mask, axes, keepdims=True), 1)
        for axis in axes:
            if mask.shape[axis] == 1:  # A mask is the same everywhere.
                count *= ops.cast(ops.shape(values)[axis], count.dtype)

        def mean(x):
            return ops.sum(x * mask, axes, keepdims=True) / count

        has_mean = not isinstance(layer, keras.layers.RMSNormalization)
        if has_mean:
            values = values - mean(values)
        outputs = values * ops.rsqrt(mean(values**2) + layer.epsilon)
        shape = [
            n if axis in of_weights else 1
            for axis, n in enumerate((1, *values.shape[1:]))
        ]
        scale, shift = (
            (layer.gamma, layer.beta) if has_mean else (layer.scale, None)
        )
        if scale is not None:
            outputs *= ops.cast(ops.reshape(scale, shape), outputs.dtype)
        if shift is not None:
            outputs += ops.cast(ops.reshape(shift, shape), outputs.dtype)
        return outputs

    def get_config(self):
        config = super().get_config()
        del config["gain"]
        return config
