"""Real images to compare the forms of a model on."""

import keras
import numpy as np

from kmod.data.digits import load_digits
from kmod.errors import ArtifactError
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.adapters import adapt_images
from kmod.modules.manifest import InputContract

NUM_IMAGES = 8


def comparison_images(contract: InputContract) -> np.ndarray:
    """Returns a few real images as a model takes them.

    They are handwritten digits, which any kmod has at hand. A model that
    they can not be adapted to gets random images.

    Args:
        contract: What the model takes.
    """
    digits = load_digits()
    images = digits.test.images[:NUM_IMAGES]
    own = InputContract(images.shape[1:], str(images.dtype), digits.value_range)
    try:
        images = adapt_images(images, plan_adaptation(own, contract))
    except ArtifactError:
        shape = (NUM_IMAGES, *contract.shape)
        images = np.random.default_rng(0).uniform(*contract.range, shape)
    return keras.ops.convert_to_numpy(keras.ops.cast(images, contract.dtype))
