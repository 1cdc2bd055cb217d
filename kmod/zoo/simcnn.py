"""SimCNN, a plain stack of convolutions in the manner of VGG16."""

import keras
from keras import layers

from kmod.zoo.layers import classify
from kmod.zoo.layers import conv_bn_relu
from kmod.zoo.layers import image_input
from kmod.zoo.layers import scaler

# Kernels of each convolution. A pooling follows every stage.
STAGES = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
SMALL_STAGES = ((16,) * 2, (32,) * 2, (64,) * 2)


def simcnn(
    input_shape: tuple[int, int, int],
    num_classes: int,
    small: bool = True,
    width: float = 1.0,
) -> keras.Model:
    """Builds SimCNN or its small twin; `kmod.zoo.build.build` checks first."""
    stages = SMALL_STAGES if small else STAGES
    hidden, dropout = ((64,), 0) if small else ((4096, 4096), 0.5)
    scaled = scaler(width)
    inputs, x = image_input(input_shape, len(stages))
    conv_index = 0
    for stage_index, stage in enumerate(stages, 1):
        for filters in stage:
            conv_index += 1
            x = conv_bn_relu(x, scaled(filters), conv_index)
        x = layers.MaxPooling2D(name=f"pool_{stage_index}")(x)
    x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden, 1):
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout_{index}")(x)
        x = layers.Dense(
            scaled(units), activation="relu", name=f"hidden_{index}"
        )(x)
    return keras.Model(inputs, classify(x, num_classes), name="simcnn")
