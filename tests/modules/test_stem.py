import keras
import numpy as np
import pytest

from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.decompose import stem_sizes


@pytest.fixture
def modules():
    """Modules of masks behind the second convolution only."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, name="conv_1")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = x + keras.layers.Conv2D(4, 3, padding="same", name="conv_2")(x)
    x = keras.layers.Conv2D(6, 3, name="conv_3")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(3, activation="softmax", name="logits")(x)
    source = keras.Model(image, x)
    modular = ModularModel(source, ("a", "b", "c"), mask_from="conv_3")
    masks = np.ones_like(modular.kernel_masks)
    columns = modular.kernels.ids_of("conv_3")
    masks[0, columns[:2]] = masks[1, columns[2:4]] = 0
    modular.kernel_masks = masks
    return [cut_module(modular, index) for index in range(3)]


def test_stem_is_what_stands_in_front_of_the_first_mask(modules):
    sizes = stem_sizes(modules)
    # conv_1: 9*4+4, norm: 4*4, conv_2: 9*16+4; both at 6x6 positions.
    assert sizes == {"parameters": 204, "macs": 36 * (36 + 144)}


def test_one_module_alone_is_all_stem(modules):
    assert stem_sizes(modules[:1])["parameters"] == modules[0].count_params()


def test_other_weights_end_the_stem(modules):
    layer = modules[1].get_layer("conv_1")
    layer.set_weights([weights + 1 for weights in layer.get_weights()])
    assert stem_sizes(modules) == {"parameters": 0, "macs": 0}
