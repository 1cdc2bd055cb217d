"""ResCNN, a stack of convolutions with residual joins."""

import keras
from keras import layers

from kmod.zoo.layers import classify
from kmod.zoo.layers import conv_bn_relu
from kmod.zoo.layers import image_input
from kmod.zoo.layers import scaler

# Kernels of each convolution. A pooling stands between stages; a later
# stage's input is added to what its second convolution makes of it.
STAGES = (
    (64, 128),
    (128, 128, 256),
    (512,),
    (512, 512, 512),
    (512,),
    (512, 512),
)
SMALL_STAGES = ((16, 32), (32, 32, 64), (64,), (64, 64))


def rescnn(
    input_shape: tuple[int, int, int],
    num_classes: int,
    small: bool = True,
    width: float = 1.0,
) -> keras.Model:
    """Builds ResCNN or its small twin; `kmod.zoo.build.build` checks first."""
    stages = SMALL_STAGES if small else STAGES
    scaled = scaler(width)
    inputs, x = image_input(input_shape, len(stages) - 1)
    conv_index = 0
    for stage_index, stage in enumerate(stages):
        if stage_index:
            x = layers.MaxPooling2D(name=f"pool_{stage_index}")(x)
        stage_input = x
        for position, filters in enumerate(stage):
            conv_index += 1
            x = conv_bn_relu(x, scaled(filters), conv_index)
            if stage_index and position == 1:
                x = layers.Add(name=f"add_{conv_index}")([x, stage_input])
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    if not small:
        x = layers.Dropout(0.5, name="dropout")(x)
    return keras.Model(inputs, classify(x, num_classes), name="rescnn")
