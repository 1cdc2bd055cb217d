"""Cut modules equal the masked model, whatever the network looks like."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from keras.src.applications.convnext import LayerScale

from kmod.modular.modular_model import ModularModel

TOLERANCE = 1e-4
# What the answers must differ between images for a comparison to say much.
LEAST_SPREAD = 50 * TOLERANCE


class Shifted(layers.Layer):
    """A layer that kmod does not know."""

    def build(self, shape):
        self.offset = self.add_weight(shape=(shape[-1],))

    def call(self, inputs):
        return inputs + self.offset


def conv(kernels=8, size=3, padding="same", **options):
    return layers.Conv2D(kernels, size, padding=padding, **options)


def unit(x, kernels=8, **options):
    x = layers.BatchNormalization()(conv(kernels, **options)(x))
    return layers.ReLU()(x)


def plain(x):
    return unit(layers.MaxPooling2D()(unit(x)))


def residual(x):
    x = unit(x)
    x = layers.Add()([x, unit(unit(x, 6))])
    return unit(layers.Add()([x, conv()(x)]))


def preactivated(x):
    x = conv(use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(x))
    return unit(layers.Add()([x, conv()(y)]))


def dense_block(x):
    x = unit(x)
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, conv(4)(y)])
    return layers.BatchNormalization()(x)


def concatenation(x):
    return unit(layers.Concatenate()([unit(x, 4), x, unit(x, 6)]))


def concatenation_over_space(x):
    return unit(layers.Concatenate(axis=1)([unit(x), unit(x)]))


def flatten(x):
    x = layers.Flatten()(layers.MaxPooling2D(4)(unit(x)))
    return layers.Dense(8, activation="swish")(x)


def permuted_flatten(x):
    return layers.Flatten()(layers.Permute((3, 1, 2))(unit(x, strides=4)))


def squeezed(x):
    x = layers.Reshape((1, 1, 8))(layers.GlobalMaxPooling2D()(unit(x)))
    return unit(x, size=1)


def rows(x):
    x = layers.Reshape((64, 8))(unit(x))
    return layers.Conv1D(8, 3, activation="relu")(x)


def volume(x):
    x = layers.Conv3D(8, 2)(layers.Reshape((4, 4, 4, 3))(x))
    return layers.Conv3DTranspose(4, 2)(layers.BatchNormalization()(x))


def repeated(x):
    x = layers.RepeatVector(3)(layers.GlobalAveragePooling2D()(unit(x)))
    return layers.Conv1D(8, 2)(x)


def depthwise(x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(
        unit(x)
    )
    return unit(layers.BatchNormalization()(x))


def separable(x):
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2)(unit(x))
    x = layers.SeparableConv2D(6, 3, use_bias=False)(layers.ReLU()(x))
    return layers.BatchNormalization()(x)


def squeeze_and_excite(x):
    x = unit(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = conv(4, 1, activation="relu")(gate)
    gate = conv(8, 1, activation="hard_sigmoid")(gate)
    return unit(layers.Multiply()([x, gate]))


def asymmetric_padding(x):
    x = layers.ZeroPadding2D(((0, 1), (2, 0)))(unit(x))
    x = layers.Cropping2D(((1, 0), (0, 1)))(conv(padding="valid", strides=2)(x))
    return layers.Activation("swish")(x)


def transposed(x):
    x = layers.Conv2DTranspose(8, 3, strides=2)(unit(x))
    return conv(4)(layers.UpSampling2D()(layers.ELU()(x)))


def shared(x):
    block, norm = conv(), layers.BatchNormalization()
    left, right = unit(x), unit(x)
    return layers.Concatenate()([norm(block(left)), norm(block(right))])


def shared_with_the_image(x):
    block = conv(3)
    return unit(layers.Concatenate()([block(x), block(block(x)), unit(x)]))


def nested_twice(x):
    stack = [conv(), layers.BatchNormalization(), layers.ReLU()]
    block = keras.Sequential(stack, name="block")
    return block(block(unit(x)))


def nested_with_outputs(x):
    image = keras.Input((8, 8, 3))
    block = keras.Model(image, [unit(image), unit(image, 6)], name="block")
    left, right = block(x)
    return layers.Concatenate()([right, unit(left)])


def split(x):
    left, right = ops.split(unit(x), 2, axis=-1)
    return layers.Concatenate()([unit(right), left])


def split_beside_fixed(x):
    fixed = conv(6, groups=3)(x)
    parts = ops.split(ops.concatenate([fixed, unit(x, 6)], -1), 2, axis=-1)
    return unit(layers.Concatenate()(parts[::-1]))


def split_over_space(x):
    return unit(layers.Average()(ops.split(unit(x), 2, axis=1)))


def broadcast(x):
    x = unit(x)
    return unit(layers.Multiply()([x, conv(1, activation="sigmoid")(x)]))


def operators(x):
    x = unit(x)
    y = ops.relu(conv()(x)) * 2.0 + x
    return unit(1.0 - y)


def softmax_inside(x):
    return unit(layers.Softmax()(conv(4)(unit(x))))


def layer_normalisation(x):
    return unit(layers.LayerNormalization()(conv(16)(unit(x))))


def normalised_over_channels(x):
    x = layers.UnitNormalization()(unit(x))
    x = layers.RMSNormalization()(conv()(x))
    x = layers.LayerNormalization(axis=[1, 2, 3])(conv()(x))
    x = layers.LayerNormalization(center=False)(conv()(x))
    return layers.GroupNormalization(1)(conv()(x))


def normalised_by_groups(x):
    x = layers.GroupNormalization(4)(conv()(x))
    return layers.GroupNormalization(-1)(conv()(x))


def layer_scale(x):
    """A block of ConvNeXt."""
    x = layers.LayerNormalization()(conv(16)(x))
    y = conv(16, groups=16)(x)
    y = layers.LayerNormalization(epsilon=1e-6)(y)
    y = layers.Dense(32, activation="gelu")(y)
    y = LayerScale(0.5, 16)(layers.Dense(16)(y))
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    return layers.GlobalAveragePooling2D()(x)


def attention(x):
    x = layers.Reshape((64, 8))(conv()(x))
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)])
    y = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(8)(y)])
    return layers.Dense(6, activation="relu")(x)


def grouped(x):
    x = conv(12, groups=3, activation="relu")(unit(x, 6))
    return unit(conv(6, groups=6)(conv(6)(x)))


def unknown(x):
    return unit(Shifted()(conv(4)(unit(x))))


def constant_array(x):
    return unit(conv(4)(unit(x)) + np.linspace(-1, 1, 4, dtype="float32"))


def slopes(x):
    x = layers.PReLU("uniform")(conv()(x))
    return layers.PReLU("uniform", shared_axes=[1, 2])(conv()(x))


def rescaled(x):
    x = layers.Rescaling([0.5, 1.0, 2.0], offset=[0.0, 1.0, 2.0])(x)
    x = layers.Rescaling(0.5, offset=0.25)(unit(x))
    return unit(layers.Rescaling(np.linspace(1, 2, 4).tolist())(unit(x, 4)))


def half_normalised(x):
    x = layers.BatchNormalization(scale=False)(conv()(x))
    return layers.BatchNormalization(center=False)(conv()(x))


def fused_activations(x):
    x = conv(activation="relu")(x)
    x = layers.SeparableConv2D(8, 3, activation="tanh")(x)
    x = conv(activation="gelu", name="conv")(x)
    x = conv(activation=layers.LeakyReLU(0.1), name="conv_activation")(x)
    return layers.Dense(8, activation="softplus")(x)


def frozen_in_use(x):
    x = layers.GaussianNoise(0.5)(layers.Dropout(0.5)(unit(x)))
    x = layers.BatchNormalization()(conv()(x), training=False)
    return layers.SpatialDropout2D(0.5)(x)


def names_of_a_module(x):
    for name in ("image", "head", "head_relu", "calibration", "score"):
        x = conv(6, name=name)(x)
    return x


TOPOLOGIES = [
    plain,
    residual,
    preactivated,
    dense_block,
    concatenation,
    concatenation_over_space,
    flatten,
    permuted_flatten,
    squeezed,
    rows,
    volume,
    repeated,
    depthwise,
    separable,
    squeeze_and_excite,
    asymmetric_padding,
    transposed,
    shared,
    shared_with_the_image,
    nested_twice,
    nested_with_outputs,
    split,
    split_beside_fixed,
    split_over_space,
    broadcast,
    operators,
    softmax_inside,
    layer_normalisation,
    normalised_over_channels,
    normalised_by_groups,
    layer_scale,
    attention,
    grouped,
    unknown,
    constant_array,
    slopes,
    rescaled,
    half_normalised,
    fused_activations,
    frozen_in_use,
    names_of_a_module,
]


def classifier(body):
    image = keras.Input((8, 8, 3))
    features = body(image)
    if len(features.shape) > 2:
        features = layers.Flatten()(features)
    return keras.Model(image, layers.Dense(3, activation="softmax")(features))


def slow(retention):
    return pytest.param(retention, marks=pytest.mark.slow)


@pytest.mark.parametrize("body", TOPOLOGIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize("retention", [0.3, slow(0.6), slow(0.9)])
def test_cut_module_equals_masked_model(exactness, body, retention):
    keras.utils.set_random_seed(0)
    source = classifier(body)
    exactness.randomise(source)
    modular = ModularModel(source)
    modular.run_eagerly = True
    exactness.randomise_classes(modular, retention)
    assert modular.retention_rate < 1
    images = exactness.random_images(source, 6)
    gap, spread = exactness.output_gap(modular, images, 1)
    assert gap < TOLERANCE
    assert spread > LEAST_SPREAD
