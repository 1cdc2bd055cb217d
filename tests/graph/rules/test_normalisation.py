import numpy as np
import pytest
from keras import layers

from kmod.graph import rebuild

WITH_WEIGHTS = [
    layers.LayerNormalization(name="layer"),
    layers.LayerNormalization(axis=[1, 2, 3], name="layer"),
    layers.RMSNormalization(name="layer"),
    layers.GroupNormalization(1, name="layer"),
    layers.GroupNormalization(-1, name="layer"),
]


@pytest.mark.parametrize(
    "layer",
    [*WITH_WEIGHTS, layers.UnitNormalization(name="layer")],
    ids=lambda layer: type(layer).__name__,
)
def test_channels_go_one_by_one(flow_of, layer):
    flow = flow_of(lambda x, y: layer(y))
    assert flow.at("layer") == [0, 1, 2, 3]
    assert flow.free == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "layer", WITH_WEIGHTS, ids=lambda layer: type(layer).__name__
)
def test_weights_are_cut_with_their_channels(flow_of, layer):
    flow = flow_of(lambda x, y: layer(y))
    weights = [np.random.default_rng(0).random(w.shape) for w in layer.weights]
    layer.set_weights(weights)
    cut = rebuild(flow.graph, np.array([0, 1, 0, 1])).get_layer("layer")
    assert len(cut.get_weights()) == len(weights)
    for before, now in zip(weights, cut.get_weights()):
        np.testing.assert_allclose(now, before[..., [1, 3]], rtol=1e-6)


def test_groups_of_a_normalisation_go_as_a_whole(flow_of):
    layer = layers.GroupNormalization(2, name="layer")
    flow = flow_of(lambda x, y: layer(y))
    assert flow.groups == [0, 0, 1, 1]
    assert flow.free == [1, 1, 1, 1]
    cut = rebuild(flow.graph, np.array([0, 0, 1, 1])).get_layer("layer")
    assert cut.groups == 1
    assert cut.gamma.shape == (2,)


def test_groups_with_a_fixed_channel_are_pinned(flow_of):
    layer = layers.GroupNormalization(2, name="layer")
    # Two of the image's three channels are in the group of the third kernel.
    flow = flow_of(
        lambda x, y: layer(layers.Concatenate()([y, x[..., :2]])),
    )
    assert flow.groups == [0, 0, 0, 1]
    assert flow.free == [1, 1, 1, 0]
    assert flow.pins == {"layer": "it normalises them with fixed channels"}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        pytest.param(
            layers.BatchNormalization(axis=1, name="layer"),
            "it normalises along another axis",
            id="batch-normalisation-of-rows",
        ),
        pytest.param(
            layers.LayerNormalization(axis=[1, 2], name="layer"),
            "it normalises along another axis",
            id="layer-normalisation-of-positions",
        ),
        pytest.param(
            layers.GroupNormalization(2, axis=1, name="layer"),
            "it normalises along another axis",
            id="group-normalisation-of-rows",
        ),
    ],
)
def test_layer_pins(flow_of, conv, layer, reason):
    flow = flow_of(lambda x, y: conv("after")(layer(y)))
    assert flow.at("layer") is None
    assert flow.free == [0, 0, 0, 0, 1, 1, 1, 1]
    assert flow.pins == {"layer": reason}


def test_shared_weights_tie(flow_of, conv):
    shared = layers.LayerNormalization(name="shared")
    flow = flow_of(
        lambda x, y: layers.Concatenate()(
            [shared(y), shared(conv("second")(x))]
        )
    )
    assert flow.groups == [0, 1, 2, 3, 0, 1, 2, 3]
