"""What the networks of the zoo have in common."""

import math
from collections.abc import Callable

import keras
from keras import layers


def image_input(
    input_shape: tuple[int, int, int], num_pools: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Makes the input and brings its values from 0..255 to -1..1.

    Images too small for the poolings get a black border first.

    Args:
        input_shape: `(height, width, channels)`.
        num_pools: Integer, number of 2x2 poolings that follow.

    Returns:
        Tuple `(inputs, scaled images)`.
    """
    inputs = x = keras.Input(input_shape, name="image")
    border = tuple(_halves(2**num_pools - size) for size in input_shape[:2])
    if border != ((0, 0), (0, 0)):
        x = layers.ZeroPadding2D(border, name="border")(x)
    return inputs, layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(x)


def conv_bn_relu(
    x: keras.KerasTensor, filters: int, name: str | int, kernel_size: int = 3
) -> keras.KerasTensor:
    """Adds the layers `conv_*`, `bn_*` and `relu_*` of that name."""
    conv = layers.Conv2D(
        filters, kernel_size, padding="same", name=f"conv_{name}"
    )
    norm = layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, name=f"bn_{name}"
    )
    return layers.ReLU(name=f"relu_{name}")(norm(conv(x)))


def classify(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Adds the layers `logits` and `probabilities`."""
    x = layers.Dense(num_classes, name="logits")(x)
    return layers.Softmax(name="probabilities", dtype="float32")(x)


def scaler(width: float) -> Callable[[int], int]:
    """Returns the function that multiplies a number of kernels by `width`."""
    return lambda kernels: max(1, round(kernels * width))


def _halves(missing):
    missing = max(missing, 0)
    return missing // 2, math.ceil(missing / 2)
