"""The networks that modules are measured on.

They are the paper's, so much narrower that an epoch of CIFAR-10 takes about a
minute on two cores. The zoo's small twins have too few kernels to tell classes
apart by them.
"""

import keras

from kmod.data.image_data import ImageData
from kmod.zoo.build import build

WIDTHS = {"simcnn": 0.25, "rescnn": 0.25, "incecnn": 0.125}


def untrained(name: str, data: ImageData) -> keras.Model:
    """Builds a network for a data set, with new weights."""
    return build(
        name,
        data.train.images.shape[1:],
        len(data.class_names),
        small=False,
        width=WIDTHS[name],
    )
