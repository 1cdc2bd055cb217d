"""InceCNN, blocks of parallel convolutions of three sizes."""

import keras
from keras import layers

from kmod.zoo.layers import classify
from kmod.zoo.layers import conv_bn_relu
from kmod.zoo.layers import image_input
from kmod.zoo.layers import scaler

# Kernels of each stem convolution, and of the 1x1, 3x3 and 5x5 branches of
# each block. A pooling stands in front of every block.
STEM = (64, 128, 256)
BLOCKS = ((256, 256, 64), (512, 512, 64), (512, 512, 64))
SMALL_STEM = (16, 32)
SMALL_BLOCKS = ((32, 32, 8), (32, 32, 8))
BRANCH_SIZES = (1, 3, 5)


def incecnn(
    input_shape: tuple[int, int, int],
    num_classes: int,
    small: bool = True,
    width: float = 1.0,
) -> keras.Model:
    """Builds InceCNN or its small twin; `kmod.zoo.build.build` checks first."""
    stem, blocks = (SMALL_STEM, SMALL_BLOCKS) if small else (STEM, BLOCKS)
    scaled = scaler(width)
    inputs, x = image_input(input_shape, len(blocks))
    for index, filters in enumerate(stem, 1):
        x = conv_bn_relu(x, scaled(filters), index)
    for index, block in enumerate(blocks, 1):
        x = layers.MaxPooling2D(name=f"pool_{index}")(x)
        branches = [
            conv_bn_relu(
                x, scaled(filters), f"block_{index}_{size}x{size}", size
            )
            for filters, size in zip(block, BRANCH_SIZES)
        ]
        x = layers.Concatenate(name=f"concat_{index}")(branches)
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    if not small:
        x = layers.Dropout(0.4, name="dropout")(x)
    return keras.Model(inputs, classify(x, num_classes), name="incecnn")
