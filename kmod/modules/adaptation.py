"""Brings images into the form that a module takes.

How they must change is worked out without Keras, which is imported when the
layers are built that change them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

from kmod.errors import ArtifactError
from kmod.modules.manifest import InputContract

if TYPE_CHECKING:
    import keras
    import numpy as np

GREY, RGB = 1, 3
LUMA = (0.299, 0.587, 0.114)  # Of red, green and blue, ITU-R BT.601.
NUM_IMAGES = 8
BATCH_SIZE = 256

Margins = tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """Steps from one input contract to another, in the order of the fields.

    A step that is not needed is `None`.

    Attributes:
        from_dtype: Data type to turn into float32 first.
        crop: Rows cut off `(top, bottom)` and columns `(left, right)`.
        to_grey: Whether RGB becomes grey, by the luma of ITU-R BT.601.
        pool: Rows and columns to average, so that nothing aliases.
        resize: New `(height, width)`, bilinear.
        rescale: `(scale, offset)` of the values.
        pad: Rows and columns of black to add, as in `crop`.
        shift: What is added to the values after padding with zeros.
        to_rgb: Whether grey is repeated in three channels.
        to_dtype: Data type to turn the values into at last.
    """

    from_dtype: str | None = None
    crop: Margins | None = None
    to_grey: bool | None = None
    pool: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    rescale: tuple[float, float] | None = None
    pad: Margins | None = None
    shift: float | None = None
    to_rgb: bool | None = None
    to_dtype: str | None = None

    @property
    def is_needed(self) -> bool:
        """Whether anything changes at all."""
        return bool(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Returns the steps that are needed as plain data for JSON."""
        steps = dataclasses.asdict(self)
        return {key: steps[key] for key in steps if steps[key] is not None}


def plan_adaptation(
    images: InputContract,
    module: InputContract,
    size: Literal["resize", "pad"] = "resize",
) -> Adaptation:
    """Works out how images become such as a module takes.

    Args:
        images: The images there are.
        module: What the module takes.
        size: How their size changes: `"resize"` scales them, `"pad"` adds a
            black border or cuts one off and leaves the pixels as they are.

    Returns:
        The `Adaptation`.

    Raises:
        ArtifactError: If there is no such way.
    """
    if images == module:
        return Adaptation()
    _check(images, module)
    is_resized = size == "resize"
    pad = None if is_resized else _margins(images.shape, module.shape)
    # Zeros are black only where black is zero, so the shift comes after them.
    low = 0.0 if pad else module.range[0]
    shift = module.range[0] if pad else 0.0
    adaptation = Adaptation(
        crop=None if is_resized else _margins(module.shape, images.shape),
        to_grey=_if(images.shape[2] > module.shape[2]),
        pool=_pool(images.shape, module.shape) if is_resized else None,
        resize=_resize(images.shape, module.shape) if is_resized else None,
        rescale=_rescale(images.range, (low, module.range[1] - shift)),
        pad=pad,
        shift=shift or None,
        to_rgb=_if(images.shape[2] < module.shape[2]),
    )
    if images.dtype == module.dtype and not adaptation.is_needed:
        return adaptation
    return dataclasses.replace(
        adaptation,
        from_dtype=None if images.dtype == "float32" else images.dtype,
        to_dtype=None if module.dtype == "float32" else module.dtype,
    )


def describe(contract: InputContract) -> str:
    """Says in words what images a contract is for."""
    size = "x".join(map(str, contract.shape))
    low, high = contract.range
    return f"{contract.dtype} images of {size} from {low:g} to {high:g}"


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
    import keras

    if not adaptation.is_needed:
        return model
    inputs = keras.Input(image.shape[1:], dtype=image.dtype, name="image")
    return keras.Model(inputs, model(_adapt(inputs, adaptation)))


def adapt_images(images: np.ndarray, adaptation: Adaptation) -> np.ndarray:
    """Changes images themselves, by the same layers.

    Args:
        images: Array `(n, height, width, channels)`.
        adaptation: What `plan_adaptation` worked out.
    """
    import keras

    from kmod.data.streaming import predict

    if not adaptation.is_needed:
        return images
    inputs = keras.Input(images.shape[1:], dtype=str(images.dtype))
    model = keras.Model(inputs, _adapt(inputs, adaptation))
    return predict(model, images, BATCH_SIZE)


def comparison_images(contract: InputContract) -> np.ndarray:
    """Returns a few real images as a model takes them.

    They are handwritten digits, which any kmod has at hand. A model that
    they can not be adapted to gets random images.

    Args:
        contract: What the model takes.
    """
    import keras
    import numpy as np

    from kmod.data.load import load_data

    digits = load_data("digits")
    images = digits.test.images[:NUM_IMAGES]
    own = InputContract(images.shape[1:], str(images.dtype), digits.value_range)
    try:
        images = adapt_images(images, plan_adaptation(own, contract))
    except ArtifactError:
        shape = (NUM_IMAGES, *contract.shape)
        images = np.random.default_rng(0).uniform(*contract.range, shape)
    return keras.ops.convert_to_numpy(keras.ops.cast(images, contract.dtype))


def _check(images, module):
    faults = []
    for contract in (images, module):
        shape, (low, high) = contract.shape, contract.range
        if len(shape) != 3 or None in shape:
            faults.append("an image is (height, width, channels), all known")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            faults.append("a range of values rises")
    channels = {contract.shape[-1] for contract in (images, module)}
    if len(channels) > 1 and channels != {GREY, RGB}:
        faults.append("channels are the same in number, or 1 and 3")
    if faults:
        raise ArtifactError(
            "Images can be brought to another size, from grey to RGB and "
            "back, and to another range of values. Received: "
            f"{describe(images)} for a module that takes {describe(module)}, "
            f"but {faults[0]}. Take a module of another source model, or "
            "change `input` in the spec."
        )


def _if(condition):
    return condition or None


def _margins(smaller, larger):
    """Splits what one size lacks of another in two, row- and columnwise."""
    missing = [max(b - a, 0) for a, b in zip(smaller[:2], larger[:2])]
    if not any(missing):
        return None
    return tuple((count // 2, count - count // 2) for count in missing)


def _pool(shape, target):
    factors = tuple(max(a // b, 1) for a, b in zip(shape[:2], target[:2]))
    return factors if max(factors) > 1 else None


def _resize(shape, target):
    pooled = _pool(shape, target) or (1, 1)
    size = tuple(math.ceil(a / b) for a, b in zip(shape[:2], pooled))
    return None if size == target[:2] else target[:2]


def _rescale(values, target):
    if values == target:
        return None
    scale = (target[1] - target[0]) / (values[1] - values[0])
    return scale, target[0] - scale * values[0]


def _adapt(x, steps):
    """Calls the layers of an adapter, in the order of its steps."""
    from keras import layers
    from keras import ops

    if steps.from_dtype:
        x = ops.cast(x, "float32")
    if steps.crop:
        x = layers.Cropping2D(steps.crop, name="adapter_crop")(x)
    if steps.to_grey:
        x = _to_grey(x)
    if steps.pool:
        x = layers.AveragePooling2D(
            steps.pool, padding="same", name="adapter_pool"
        )(x)
    if steps.resize:
        x = layers.Resizing(*steps.resize, name="adapter_resize")(x)
    if steps.rescale:
        x = layers.Rescaling(*steps.rescale, name="adapter_rescale")(x)
    if steps.pad:
        x = layers.ZeroPadding2D(steps.pad, name="adapter_pad")(x)
    if steps.shift:
        x = layers.Rescaling(1.0, steps.shift, name="adapter_shift")(x)
    if steps.to_rgb:
        x = layers.Concatenate(name="adapter_rgb")([x, x, x])
    if steps.to_dtype:
        is_integer = steps.to_dtype.startswith(("int", "uint"))
        x = ops.cast(ops.round(x) if is_integer else x, steps.to_dtype)
    return x


def _to_grey(x):
    import keras
    import numpy as np

    layer = keras.layers.Conv2D(
        1, 1, use_bias=False, trainable=False, name="adapter_grey"
    )
    grey = layer(x)
    layer.set_weights([np.reshape(LUMA, (1, 1, 3, 1))])
    return grey
