"""Builds adapters between input contracts of built-in Keras layers."""

import keras
import numpy as np

from kmod.modules.adaptation import Adaptation

LUMA = (0.299, 0.587, 0.114)  # Of red, green and blue, ITU-R BT.601.
IMAGE = "image"


def adapt_model(
    model: keras.Model, adaptation: Adaptation, image: keras.KerasTensor
) -> keras.Model:
    """Puts an adapter in front of a model.

    Args:
        model: Functional model of one input. It is not changed.
        adaptation: What `plan_adaptation` worked out.
        image: Input of the images there are; only shape and dtype are read.

    Returns:
        Functional model that takes such images, or `model` itself if nothing
        needs to change.
    """
    if not adaptation.is_needed:
        return model
    inputs = keras.Input(image.shape[1:], dtype=image.dtype, name=IMAGE)
    return keras.Model(inputs, model(adapt(inputs, adaptation)))


def adapt_images(
    images: np.ndarray, adaptation: Adaptation, batch_size: int = 256
) -> np.ndarray:
    """Changes images themselves, by the same layers.

    Args:
        images: Array `(n, height, width, channels)`.
        adaptation: What `plan_adaptation` worked out.
        batch_size: Integer, images to a step.
    """
    if not adaptation.is_needed:
        return images
    inputs = keras.Input(images.shape[1:], dtype=str(images.dtype))
    model = keras.Model(inputs, adapt(inputs, adaptation))
    return model.predict(images, batch_size=batch_size, verbose=0)


def adapt(x: keras.KerasTensor, adaptation: Adaptation) -> keras.KerasTensor:
    """Calls the layers of an adapter, in the order of its steps."""
    steps = adaptation.as_dict()
    for step, layer in STEPS.items():
        if step in steps:
            x = layer(x, steps[step])
    return x


def _crop(x, margins):
    return keras.layers.Cropping2D(margins, name="adapter_crop")(x)


def _to_grey(x, _):
    layer = keras.layers.Conv2D(
        1, 1, use_bias=False, trainable=False, name="adapter_grey"
    )
    grey = layer(x)
    layer.set_weights([np.reshape(LUMA, (1, 1, 3, 1))])
    return grey


def _pool(x, factors):
    return keras.layers.AveragePooling2D(
        factors, padding="same", name="adapter_pool"
    )(x)


def _resize(x, size):
    return keras.layers.Resizing(*size, name="adapter_resize")(x)


def _rescale(x, line):
    return keras.layers.Rescaling(*line, name="adapter_rescale")(x)


def _pad(x, margins):
    return keras.layers.ZeroPadding2D(margins, name="adapter_pad")(x)


def _shift(x, offset):
    return keras.layers.Rescaling(1.0, offset, name="adapter_shift")(x)


def _to_rgb(x, _):
    return keras.layers.Concatenate(name="adapter_rgb")([x, x, x])


def _cast(x, dtype):
    if dtype.startswith(("int", "uint")):
        x = keras.ops.round(x)
    return keras.ops.cast(x, dtype)


# How each step of an `Adaptation` is built, in its order.
STEPS = {
    "from_dtype": lambda x, _: keras.ops.cast(x, "float32"),
    "crop": _crop,
    "to_grey": _to_grey,
    "pool": _pool,
    "resize": _resize,
    "rescale": _rescale,
    "pad": _pad,
    "shift": _shift,
    "to_rgb": _to_rgb,
    "to_dtype": _cast,
}
