"""Statistics of images that are the same for every source model.

They know nothing of classes or of any training, so what one store says of its
images in them can be compared with what another store says of its own.
"""

import dataclasses

import keras
import numpy as np
from keras import layers

from kmod.modules.adaptation import GREY
from kmod.modules.adaptation import LUMA
from kmod.modules.adaptation import adapt_model
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import InputContract

# What images are brought to, whatever their source takes.
CONTRACT = InputContract((32, 32, 3), "float32", (0.0, 1.0))
PATCH = 3  # Height and width of the patches that textures are read in.
# Textures are averaged in so many rows and columns of the image, and of the
# image at half its size.
GRID, COARSE_GRID = 5, 3
TEXTURES = PATCH**2 - 1  # Of the luma; the mean of a patch is none.
COLOUR_TEXTURES = 3  # Of each of the two differences of colour.
THUMBNAIL = 4  # Height and width of the thumbnail.
LEAST_TEXTURE = 1e-3  # Under the root, which is steep at 0.
# Red and blue minus luma, scaled as in ITU-R BT.601.
RED, BLUE = 0.713, 0.564
CELL = TEXTURES + 2 * COLOUR_TEXTURES  # Textures of one place of a grid.
SIZE = (GRID**2 + COARSE_GRID**2) * CELL + 3 * THUMBNAIL**2


def statistics_model(contract: InputContract) -> keras.Model:
    """Builds the model that measures images.

    Textures are the mean amplitudes of a 3x3 discrete cosine transform, in a
    grid of 5x5 over the image and of 3x3 over the image at half its size, as
    square roots; beside them stands a thumbnail of 4x4 pixels.

    Args:
        contract: What images it takes. They are brought to `CONTRACT`.

    Returns:
        Functional model of built-in layers, images to `(batch, SIZE)`.
    """
    adaptation = plan_adaptation(contract, CONTRACT)
    # Values are scaled by the kernels. Waves do not see what is added.
    scale, offset = adaptation.rescale or (1.0, 0.0)
    adaptation = dataclasses.replace(adaptation, rescale=None)
    image = keras.Input(CONTRACT.shape, name="image")
    fine = scale * _waves()
    # A patch of the image at half its size, of blocks of 2x2 pixels.
    coarse = fine.repeat(2, axis=0).repeat(2, axis=1) / 4
    textures = layers.Concatenate(name="textures")(
        [
            _mean_amplitudes(image, fine, 1, GRID, "fine"),
            _mean_amplitudes(image, coarse, 2, COARSE_GRID, "coarse"),
        ]
    )
    roots = keras.ops.sqrt(textures + LEAST_TEXTURE)
    size = image.shape[1] // THUMBNAIL
    means = np.full((size, size, 1, 1), scale * size**-2.0) * _planes()
    thumbnail = _fixed_convolution(
        means, size, "thumbnail", offset * _planes().sum(axis=0)
    )(image)
    found = layers.Concatenate(name="image_statistics", dtype="float32")(
        [roots, layers.Flatten()(thumbnail)]
    )
    model = keras.Model(image, found, name="image_statistics")
    given = keras.Input(contract.shape, dtype=contract.dtype)
    return adapt_model(model, adaptation, given)


def _mean_amplitudes(image, waves, stride, grid, name):
    """Averages how strong waves are, in the cells of a grid."""
    patches = _fixed_convolution(waves, stride, name)(image)
    cells = layers.AveragePooling2D(patches.shape[1] // grid)
    return layers.Flatten()(cells(keras.ops.abs(patches)))


def is_known(shape: tuple[int, ...]) -> np.ndarray:
    """Tells which statistics images can have: grey ones show no colour.

    Args:
        shape: Height, width and channels of the images.

    Returns:
        Boolean array `(SIZE,)`.
    """
    is_luma = np.concatenate(
        [
            np.tile(np.arange(CELL) < TEXTURES, GRID**2 + COARSE_GRID**2),
            np.tile([True, False, False], THUMBNAIL**2),
        ]
    )
    return is_luma | (shape[-1] != GREY)


def _fixed_convolution(kernels, stride, name, bias=0.0):
    """Returns a convolution that no training changes."""
    layer = layers.Conv2D(
        kernels.shape[-1],
        kernels.shape[:2],
        stride,
        use_bias=bool(np.any(bias)),
        trainable=False,
        name=name,
    )
    layer.build((None, None, None, kernels.shape[2]))
    layer.set_weights([kernels, bias][: 1 + layer.use_bias])
    return layer


def _planes():
    """Turns red, green and blue into luma and two differences of colour."""
    luma = np.array(LUMA)
    red, blue = np.eye(3)[0] - luma, np.eye(3)[2] - luma
    return np.stack([luma, RED * red, BLUE * blue], axis=1)


def _waves():
    """Returns the waves that patches are compared with, in all planes."""
    luma, *colours = _planes().T
    return np.concatenate(
        [
            _cosines(count)[:, :, None] * plane[:, None]
            for plane, count in [
                (luma, TEXTURES),
                *((plane, COLOUR_TEXTURES) for plane in colours),
            ]
        ],
        axis=-1,
    )


def _cosines(count):
    """Returns waves of the discrete cosine transform, the longest first."""
    place = np.arange(PATCH)
    waves = np.cos(np.pi * place[:, None] * (2 * place + 1) / (2 * PATCH))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    order = sorted(
        (i * i + j * j, i, j) for i in range(PATCH) for j in range(PATCH)
    )
    both = [np.outer(waves[i], waves[j]) for _, i, j in order[1 : count + 1]]
    return np.stack(both, axis=-1)
