"""Functional models of random layers, of all that channel rules know."""

import random

import keras
from keras import layers
from keras import ops

SIZE = 8
MOST_CHANNELS = 16
ACTIVATIONS = ("relu", "swish", "tanh", "gelu", "sigmoid", "softplus", "elu")


def random_classifier(draw: random.Random) -> keras.Model:
    """Returns a model of three classes of random layers, untrained.

    Args:
        draw: Draws the layers; give it the same state for the same model.
    """
    image = keras.Input((SIZE, SIZE, 3))
    x = _conv(image, draw)
    for _ in range(draw.randint(1, 7)):
        x = draw.choice(STEPS)(x, draw)
    x = draw.choice(ENDS)(x, draw)
    if draw.random() < 0.4:
        x = layers.Dense(draw.randint(2, 8), activation=_name(draw))(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def _name(draw):
    return draw.choice(ACTIVATIONS)


def _width(draw):
    return draw.choice((2, 3, 4, 6, 8))


def _channels(x):
    return x.shape[-1]


def _conv(x, draw, **options):
    options = {
        "filters": _width(draw),
        "kernel_size": draw.choice((1, 2, 3)),
        "padding": "same",
        "use_bias": draw.random() < 0.8,
        "activation": draw.choice((None, None, _name(draw))),
    } | options
    return layers.Conv2D(**options)(x)


def _strided(x, draw):
    return _conv(x, draw, strides=draw.choice((1, 2)) if x.shape[1] > 3 else 1)


def _dilated(x, draw):
    return _conv(x, draw, dilation_rate=2)


def _valid(x, draw):
    return _conv(x, draw, padding="valid") if min(x.shape[1:3]) > 3 else x


def _grouped(x, draw):
    groups = draw.choice([g for g in (1, 2, 3, 4) if _channels(x) % g == 0])
    return _conv(x, draw, filters=groups * draw.choice((1, 2)), groups=groups)


def _dense(x, draw):
    return layers.Dense(_width(draw), activation=_name(draw))(x)


def _depthwise(x, draw):
    multiplier = draw.choice((1, 2)) if _channels(x) < MOST_CHANNELS else 1
    layer = layers.DepthwiseConv2D(
        3, padding="same", depth_multiplier=multiplier
    )
    return layer(x)


def _separable(x, draw):
    layer = layers.SeparableConv2D(
        _width(draw), 3, padding="same", depth_multiplier=draw.choice((1, 2))
    )
    return layer(x)


def _transposed(x, draw):
    strides = 2 if x.shape[1] < SIZE else 1
    layer = layers.Conv2DTranspose(
        _width(draw), 3, strides=strides, padding="same"
    )
    return layer(x)


def _norm(x, draw):
    groups = [g for g in (1, 2, 4, -1) if g < 0 or _channels(x) % g == 0]
    layer = draw.choice(
        (
            layers.BatchNormalization(),
            layers.BatchNormalization(),
            layers.BatchNormalization(scale=False),
            layers.BatchNormalization(center=False),
            layers.LayerNormalization(),
            layers.LayerNormalization(center=False),
            layers.RMSNormalization(),
            layers.UnitNormalization(),
            layers.GroupNormalization(draw.choice(groups)),
        )
    )
    return layer(x)


def _activation(x, draw):
    layer = draw.choice(
        (
            layers.ReLU(),
            layers.ReLU(6.0, negative_slope=0.1),
            layers.LeakyReLU(),
            layers.ELU(),
            layers.PReLU("uniform"),
            layers.PReLU("uniform", shared_axes=[1, 2]),
            layers.Activation(_name(draw)),
            layers.Softmax(),
            layers.Identity(),
        )
    )
    return layer(x)


def _training_only(x, draw):
    layer = draw.choice(
        (
            layers.Dropout(0.5),
            layers.SpatialDropout2D(0.5),
            layers.GaussianNoise(0.5),
            layers.GaussianDropout(0.5),
        )
    )
    return layer(x)


def _pool(x, draw):
    if x.shape[1] < 2:
        return x
    layer = draw.choice(
        (
            layers.MaxPooling2D(2),
            layers.AveragePooling2D(2),
            layers.MaxPooling2D(3, strides=1, padding="same"),
            layers.AdaptiveAveragePooling2D(2),
            layers.AdaptiveMaxPooling2D(2),
        )
    )
    return layer(x)


def _resized(x, draw):
    size = x.shape[1]
    layer = draw.choice(
        (
            layers.ZeroPadding2D(((0, 1), (1, 0))),
            layers.Cropping2D(((1, 0), (0, 1))) if size > 2 else None,
            layers.UpSampling2D(2) if size < SIZE else None,
            (
                layers.UpSampling2D(2, interpolation="bilinear")
                if size < SIZE
                else None
            ),
            layers.Resizing(4, 4),
            layers.CenterCrop(2, 2) if size > 2 else None,
        )
    )
    return x if layer is None else layer(x)


def _rescaled(x, draw):
    scale = draw.uniform(0.5, 2)
    if draw.random() < 0.5:
        scale = [draw.uniform(0.5, 2) for _ in range(_channels(x))]
    return layers.Rescaling(scale, offset=draw.uniform(-1, 1))(x)


def _residual(x, draw):
    joins = (layers.Add, layers.Subtract, layers.Multiply, layers.Average)
    join = draw.choice((*joins, layers.Maximum, layers.Minimum))()
    y = _norm(x, draw) if draw.random() < 0.5 else x
    y = _activation(_conv(y, draw), draw)
    return join([x, _conv(y, draw, filters=_channels(x))])


def _branches(x, draw):
    parts = [_conv(x, draw), _conv(x, draw)]
    if draw.random() < 0.5:
        parts.append(x)
    draw.shuffle(parts)
    x = layers.Concatenate()(parts)
    if _channels(x) > MOST_CHANNELS:
        x = _conv(x, draw)
    return x


def _over_space(x, draw):
    if x.shape[1] > SIZE // 2:
        x = layers.MaxPooling2D(2)(x)
    width = _width(draw)
    parts = [_conv(x, draw, filters=width) for _ in range(2)]
    return layers.Concatenate(axis=draw.choice((1, 2)))(parts)


def _split(x, draw):
    if _channels(x) % 2:
        x = _conv(x, draw, filters=4)
    left, right = ops.split(x, 2, axis=-1)
    return layers.Concatenate()([_activation(right, draw), left])


def _operators(x, draw):
    y = _conv(x, draw, filters=_channels(x))
    made = draw.choice(
        (
            lambda: ops.relu(y) * 2.0 + x,
            lambda: 1.0 - ops.sigmoid(y) * x,
            lambda: ops.maximum(y, x) / 2.0,
            lambda: ops.silu(ops.abs(y)),
            lambda: ops.square(ops.tanh(y)) - x,
            lambda: ops.concatenate([y, x], -1) if _channels(x) < 9 else -y,
        )
    )
    return made()


def _gated(x, draw):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = _conv(gate, draw, kernel_size=1)
    gate = _conv(
        gate,
        draw,
        filters=draw.choice((1, _channels(x))),
        kernel_size=1,
        activation="sigmoid",
    )
    return layers.Multiply()([x, gate])


def _shared(x, draw):
    block = layers.Conv2D(_channels(x), 3, padding="same", activation="relu")
    return block(block(x)) if draw.random() < 0.5 else block(x) + block(x * 0.5)


def _nested(x, draw):
    image = keras.Input(x.shape[1:])
    y = draw.choice((_conv, _residual, _norm))(image, draw)
    block = keras.Model(image, _activation(_conv(y, draw), draw))
    return block(x)


def _sequence(x, draw):
    _, height, width, channels = x.shape
    y = layers.Reshape((height * width, channels))(x)
    if draw.random() < 0.5:
        y = layers.MultiHeadAttention(2, 3)(y, y)
    else:
        y = layers.Conv1D(channels, 3, padding="same")(y)
    return layers.Reshape((height, width, channels))(y)


def _volume(x, draw):
    _, height, width, channels = x.shape
    y = layers.Reshape((height, width, 1, channels))(x)
    y = layers.Conv3D(_width(draw), 1, activation=_name(draw))(y)
    return layers.Reshape((height, width, y.shape[-1]))(y)


STEPS = (
    *(_conv, _strided, _dilated, _valid, _grouped, _dense, _depthwise),
    *(_separable, _transposed, _norm, _norm, _activation, _training_only),
    *(_pool, _resized, _rescaled, _residual, _branches, _over_space, _split),
    *(_operators, _gated, _shared, _nested, _sequence, _volume),
)


def _flattened(x, draw):
    if x.shape[1] > 4:
        x = layers.MaxPooling2D(2)(x)
    if draw.random() < 0.3:
        x = layers.Permute((3, 1, 2))(x)
    return layers.Flatten()(x)


def _average(x, draw):
    return layers.GlobalAveragePooling2D()(x)


def _largest(x, draw):
    return layers.GlobalMaxPooling2D()(x)


def _repeated(x, draw):
    x = layers.RepeatVector(2)(layers.GlobalAveragePooling2D()(x))
    return layers.Flatten()(layers.Conv1D(_width(draw), 2)(x))


ENDS = (_flattened, _average, _largest, _repeated)
