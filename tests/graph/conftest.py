import keras
import pytest
from keras import layers

from kmod.graph import channel_graph


def conv(name, kernels=4, **options):
    options = {"padding": "same", **options}
    return layers.Conv2D(kernels, 3, name=name, **options)


class FlowOf:
    """Channel graph of a two-class model around a body of layers.

    The body gets the image and a convolution's output of four kernels (ids
    0 to 3) that reads it.
    """

    def __init__(self, body, shape=(4, 4, 3), **options):
        image = keras.Input(shape)
        features = body(image, conv("first", **options)(image))
        if len(features.shape) > 2:
            pool = f"GlobalAveragePooling{len(features.shape) - 2}D"
            features = getattr(layers, pool)()(features)
        logits = layers.Dense(2, name="logits")(features)
        self.model = keras.Model(image, logits)
        self.graph = channel_graph(self.model)

    @property
    def groups(self):
        return self.graph.kernels.groups.tolist()

    @property
    def free(self):
        return self.graph.kernels.removable.astype(int).tolist()

    @property
    def pins(self):
        return {pin.layer: pin.reason for pin in self.graph.pins}

    def at(self, layer, output=0):
        """Lists the groups behind the channels of a layer's output."""
        call, *_ = [c for c in self.graph.trace.calls if c.name == layer]
        groups = self.graph.groups_of(call.outputs[output])
        return None if groups is None else groups.tolist()


@pytest.fixture
def flow_of():
    return FlowOf


@pytest.fixture(name="conv")
def conv_fixture():
    return conv
