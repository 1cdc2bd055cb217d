"""The networks that modules are measured on, and how they are trained.

They are the paper's, so much narrower that an epoch of CIFAR-10 takes about one
minute on two cores. The zoo's small twins have too few kernels to tell classes
apart by them.
"""

from collections.abc import Sequence

import keras

from kmod.data.image_data import ImageData
from kmod.zoo.build import build
from kmod.zoo.train import train_source

WIDTHS = {"simcnn": 0.25, "rescnn": 0.25, "incecnn": 0.1875}
SOURCE_EPOCHS = 12
SOURCE_BATCH_SIZE = 128


def untrained(
    name: str, data: ImageData, width: float | None = None
) -> keras.Model:
    """Builds a network for a data set, with new weights.

    Args:
        name: Name of the network.
        data: Data set; its image shape and number of classes count.
        width: What multiplies the paper's kernels. Defaults to the network's
            own of `WIDTHS`.
    """
    return build(
        name,
        data.train.images.shape[1:],
        len(data.class_names),
        small=False,
        width=width or WIDTHS[name],
    )


def trained(
    name: str,
    data: ImageData,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Trains a network as a source model, on mirrored and moved images."""
    keras.utils.set_random_seed(seed)
    source = untrained(name, data)
    train_source(
        source,
        data,
        SOURCE_EPOCHS,
        batch_size=SOURCE_BATCH_SIZE,
        learning_rate=0.1,
        seed=seed,
        augment=True,
        verbose=2,
        callbacks=callbacks,
    )
    return source
