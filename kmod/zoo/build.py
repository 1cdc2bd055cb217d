"""Builds the networks of the GradSplitter paper and their small twins."""

import math

import keras
from keras import layers

from kmod.errors import UsageError

ARCHITECTURES = ("simcnn", "rescnn", "incecnn")


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    small: bool = True,
    width: float = 1.0,
) -> keras.Model:
    """Builds an untrained classifier of the GradSplitter paper.

    SimCNN is a plain stack of convolutions in the manner of VGG16, ResCNN one
    with residual joins, InceCNN has blocks of parallel convolutions of three
    sizes. The model takes images with values from 0 to 255 and returns
    probabilities; its layer `logits` stands in front of them. Images too
    small for the network get a black border inside it.

    Args:
        name: `"simcnn"`, `"rescnn"` or `"incecnn"`.
        input_shape: `(height, width, channels)` of the images.
        num_classes: Integer, at least 2.
        small: Whether to build the small twin, which has the same topology
            and trains in minutes on a CPU. Defaults to `True`.
        width: Positive number that multiplies the kernels of every layer.

    Returns:
        A Functional model, `(batch, *input_shape)` to `(batch, num_classes)`.

    Raises:
        UsageError: If an argument is out of range.

    Reference:

    - [Reusing CNN models through modularization and
      composition, 2023](https://arxiv.org/abs/2311.04438)
    """
    if name not in ARCHITECTURES:
        raise UsageError(
            f"`name` must be one of {sorted(ARCHITECTURES)}. "
            f"Received: name={name!r}. Any other Keras CNN can be taken apart "
            "as well, without the zoo."
        )
    if len(input_shape) != 3 or not all(input_shape):
        raise UsageError(
            "`input_shape` must be (height, width, channels), each known. "
            f"Received: input_shape={input_shape}. Leave the batch axis out."
        )
    if num_classes < 2 or width <= 0:
        raise UsageError(
            "`num_classes` must be at least 2 and `width` positive. "
            f"Received: num_classes={num_classes}, width={width}."
        )

    def scaled(kernels):
        return max(1, round(kernels * width))

    image = keras.Input(input_shape, name="image")
    add_body = {"simcnn": _simcnn, "rescnn": _rescnn, "incecnn": _incecnn}
    x = add_body[name](image, small, scaled)
    x = layers.Dense(num_classes, name="logits")(x)
    x = layers.Softmax(name="probabilities", dtype="float32")(x)
    return keras.Model(image, x, name=name)


def _simcnn(image, small, scaled):
    """Adds stages of convolutions, a pooling behind each, and hidden layers."""
    stages = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    hidden, dropout = (4096, 4096), 0.5
    if small:
        stages, hidden, dropout = ((16,) * 2, (32,) * 2, (64,) * 2), (64,), 0
    x, conv_index = _scaled_image(image, len(stages)), 0
    for stage_index, stage in enumerate(stages, 1):
        for filters in stage:
            conv_index += 1
            x = _conv_bn_relu(x, scaled(filters), conv_index)
        x = layers.MaxPooling2D(name=f"pool_{stage_index}")(x)
    x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden, 1):
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout_{index}")(x)
        x = layers.Dense(
            scaled(units), activation="relu", name=f"hidden_{index}"
        )(x)
    return x


def _rescnn(image, small, scaled):
    """Adds stages of convolutions, a pooling between them.

    A later stage's input is added to what its second convolution makes of it.
    """
    stages = ((64, 128), (128, 128, 256), (512,))
    stages += ((512, 512, 512), (512,), (512, 512))
    if small:
        stages = ((16, 32), (32, 32, 64), (64,), (64, 64))
    x, conv_index = _scaled_image(image, len(stages) - 1), 0
    for stage_index, stage in enumerate(stages):
        if stage_index:
            x = layers.MaxPooling2D(name=f"pool_{stage_index}")(x)
        stage_input = x
        for position, filters in enumerate(stage):
            conv_index += 1
            x = _conv_bn_relu(x, scaled(filters), conv_index)
            if stage_index and position == 1:
                x = layers.Add(name=f"add_{conv_index}")([x, stage_input])
    return _pooled(x, dropout=0 if small else 0.5)


def _incecnn(image, small, scaled):
    """Adds a stem and blocks of 1x1, 3x3 and 5x5 branches behind poolings."""
    stem = (64, 128, 256)
    blocks = ((256, 256, 64), (512, 512, 64), (512, 512, 64))
    if small:
        stem, blocks = (16, 32), ((32, 32, 8), (32, 32, 8))
    x = _scaled_image(image, len(blocks))
    for index, filters in enumerate(stem, 1):
        x = _conv_bn_relu(x, scaled(filters), index)
    for index, block in enumerate(blocks, 1):
        x = layers.MaxPooling2D(name=f"pool_{index}")(x)
        branches = [
            _conv_bn_relu(
                x, scaled(filters), f"block_{index}_{size}x{size}", size
            )
            for filters, size in zip(block, (1, 3, 5))
        ]
        x = layers.Concatenate(name=f"concat_{index}")(branches)
    return _pooled(x, dropout=0 if small else 0.4)


def _scaled_image(image, num_pools):
    """Brings values from 0..255 to -1..1, images to a size to pool so often."""
    halves = []
    for size in image.shape[1:3]:
        missing = max(2**num_pools - size, 0)
        halves.append((missing // 2, math.ceil(missing / 2)))
    if halves != [(0, 0), (0, 0)]:
        image = layers.ZeroPadding2D(halves, name="border")(image)
    return layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(image)


def _conv_bn_relu(x, filters, name, kernel_size=3):
    conv = layers.Conv2D(
        filters, kernel_size, padding="same", name=f"conv_{name}"
    )
    norm = layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, name=f"bn_{name}"
    )
    return layers.ReLU(name=f"relu_{name}")(norm(conv(x)))


def _pooled(x, dropout):
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    return layers.Dropout(dropout, name="dropout")(x) if dropout else x
