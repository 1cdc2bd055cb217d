"""Rules of layers that treat each channel by itself: channels pass through."""

import keras
import numpy as np
from keras import layers

from kmod.graph.calls import Call
from kmod.graph.channels import ChannelMap
from kmod.graph.rules.base import LayerRule
from kmod.graph.rules.base import channel_axis
from kmod.graph.rules.base import copy_of
from kmod.graph.rules.base import take

ELEMENTWISE_ACTIVATIONS = frozenset(
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish "
    "hard_tanh leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu "
    "soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus "
    "swish tanh tanh_shrink threshold".split()
)
MIXES_CHANNELS = "its activation mixes channels"
# Layers that do nothing in use.
TRAINING_ONLY = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
    layers.AugMix,
    layers.CutMix,
    layers.MixUp,
    layers.RandAugment,
    layers.RandomBrightness,
    layers.RandomColorDegeneration,
    layers.RandomColorJitter,
    layers.RandomContrast,
    layers.RandomElasticTransform,
    layers.RandomErasing,
    layers.RandomFlip,
    layers.RandomGaussianBlur,
    layers.RandomGrayscale,
    layers.RandomHue,
    layers.RandomInvert,
    layers.RandomPerspective,
    layers.RandomPosterization,
    layers.RandomRotation,
    layers.RandomSaturation,
    layers.RandomSharpness,
    layers.RandomShear,
    layers.RandomTranslation,
    layers.RandomZoom,
)


class PassThrough(LayerRule):
    """A layer that computes every output channel from the same input channel.

    Args:
        weights: Maps each weight's position in `layer.get_weights()` that has
            a channel axis to that axis. Weights not named are kept whole.

    Example:

    ```python
    # A layer with one learned factor per channel.
    kmod.register_channel_rule(ChannelScale, PassThrough(weights={0: -1}))
    ```
    """

    def __init__(self, weights=None):
        self.weights = dict(weights or {})

    def flow(self, call, space):
        (image,) = call.inputs
        read = space.map_of(image)
        obstacle = read is not None and self.obstacle(call, read)
        if obstacle:
            space.pin(read, call.name, obstacle)
            return [None] * len(call.outputs)
        if self.weights:
            space.tie_calls(call, read)
        return [read] * len(call.outputs)

    def obstacle(self, call: Call, channels: ChannelMap) -> str | None:
        """Returns why channels can not pass through, `None` if they can."""

    def cut(self, call, inputs, outputs):
        layer, weights = copy_of(call.operation)
        for position, axis in self.weights.items():
            if weights and position < len(weights):
                weights[position] = take(weights[position], inputs[0], axis)
        return layer, weights


class SpatialRule(PassThrough):
    """Pooling, padding, cropping, resizing: over space, not over channels."""

    def obstacle(self, call, channels):
        axis = channel_axis(call.operation, call.inputs[0].rank)
        if channels.axis != axis:
            return "it works across the channel axis"
        return None


class PReluRule(PassThrough):
    """PReLU: slopes have the input's shape without the batch axis."""

    def flow(self, call, space):
        space.tie_calls(call, space.map_of(call.inputs[0]))
        return [space.map_of(call.inputs[0])]

    def cut(self, call, inputs, outputs):
        layer, (slopes,) = copy_of(call.operation)
        (reads,) = inputs
        if reads is not None and slopes.shape[reads.axis - 1] > 1:
            slopes = take(slopes, reads, reads.axis - 1)
        return layer, [slopes]


class ActivationRule(PassThrough):
    """An activation that works element by element."""

    def obstacle(self, call, channels):
        if not is_elementwise(call.operation.activation):
            return MIXES_CHANNELS
        return None


class RescalingRule(PassThrough):
    """Rescaling, by one factor or by one for each channel."""

    def obstacle(self, call, channels):
        is_last = channels.axis == call.inputs[0].rank - 1
        is_last &= keras.config.image_data_format() == "channels_last"
        is_last &= (
            max(np.ndim(call.operation.scale), np.ndim(call.operation.offset))
            < 2
        )
        if self._by_channel(call.operation) and not is_last:
            return "it has factors along another axis"
        return None

    def cut(self, call, inputs, outputs):
        changes = {
            key: take(np.asarray(values), inputs[0], 0).tolist()
            for key, values in self._by_channel(call.operation).items()
        }
        return copy_of(call.operation, **changes)

    def _by_channel(self, layer):
        factors = {"scale": layer.scale, "offset": layer.offset}
        return {key: each for key, each in factors.items() if np.ndim(each)}


class LayerScaleRule(PassThrough):
    """LayerScale of `keras.applications`, which modules must not hold.

    What is made of it is a `Rescaling` by its factors.
    """

    def __init__(self):
        super().__init__(weights={0: -1})

    def cut(self, call, inputs, outputs):
        (factors,) = call.operation.get_weights()
        factors = take(factors, inputs[0], -1).tolist()
        return layers.Rescaling(factors, name=call.name), None


def is_elementwise(activation) -> bool:
    """Tells whether an activation function works element by element."""
    name = keras.activations.serialize(activation)
    return isinstance(name, str) and name in ELEMENTWISE_ACTIVATIONS
