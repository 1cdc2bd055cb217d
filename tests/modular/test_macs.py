import keras
import numpy as np
import pytest
from keras import layers

from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sizes import layer_macs
from kmod.graph.sizes import model_sizes
from kmod.modular.macs import Macs
from kmod.modular.macs import MaskStart
from kmod.modular.macs import mask_starts
from kmod.modular.macs import propose_start
from kmod.modular.placement import place


def networks():
    def plain(x):
        x = layers.Conv2D(4, 3, name="first")(x)
        x = layers.Conv2D(6, 3, padding="same", name="second")(x)
        x = layers.DepthwiseConv2D(3, name="depthwise")(x)
        x = layers.Conv2D(4, 1, name="third")(x)
        x = layers.Flatten()(x)
        return layers.Dense(5, name="hidden")(x)

    def residual(x):
        x = layers.Conv2D(4, 3, name="first")(x)
        y = layers.Conv2D(4, 3, padding="same", name="second")(x)
        x = layers.Add()([x, y])
        y = layers.Conv2D(6, 3, padding="same", name="third")(x)
        x = layers.Concatenate()([x, y])
        return layers.GlobalAveragePooling2D()(x)

    return {"plain": plain, "residual": residual}


def build(body):
    image = keras.Input((8, 8, 2))
    return keras.Model(image, layers.Dense(3, name="out")(body(image)))


@pytest.mark.parametrize("mask_from", ["first", "second", "third"])
@pytest.mark.parametrize("name", networks())
def test_counts_are_those_of_cut_models(name, mask_from):
    """Behind the stem, a module's count is that of the model that is cut."""
    model = build(networks()[name])
    graph = channel_graph(model)
    placement = place(graph, mask_from, False)
    macs = Macs(graph, placement, layer_macs(model))
    assert macs.total == model_sizes(model).macs
    random = np.random.default_rng(0)
    masks = random.random((2, graph.kernels.num_groups)) < 0.6
    masks = np.maximum(masks, ~placement.may_go).astype("float32")
    for family in placement.families:
        masks[:, family[0]] = 1
    cut = [
        model_sizes(rebuild(graph, mask[graph.kernels.groups])).macs
        for mask in masks
    ]
    counted = np.array(macs.of_modules(masks)) + macs.stem
    np.testing.assert_allclose(counted, cut, rtol=1e-5)
    composed = float(macs.of_composition(masks)) * macs.total
    assert composed == pytest.approx(sum(cut) - macs.stem, rel=1e-5)
    shared_out = np.array(macs.of_groups(masks)) * masks * placement.may_go
    assert np.all(shared_out.sum(axis=1) <= counted - macs.stem + 1e-3)


def test_group_costs_add_up_where_nothing_is_fixed():
    model = build(networks()["plain"])
    graph = channel_graph(model)
    placement = place(graph, "second", False)
    macs = Macs(graph, placement, layer_macs(model))
    ones = np.ones((1, graph.kernels.num_groups), "float32")
    costs = np.array(macs.of_groups(ones)) * placement.may_go
    # The classifier reads the hidden units, which pay for it.
    assert costs.sum() == pytest.approx(float(macs.of_modules(ones)[0]))


@pytest.mark.parametrize("name", networks())
def test_what_is_in_front_of_a_layer_is_the_stem_of_masks_from_there(name):
    model = build(networks()[name])
    graph = channel_graph(model)
    starts = mask_starts(graph, model)
    assert len(starts) > 1
    for start in starts:
        placement = place(graph, start.layer, False)
        macs = Macs(graph, placement, layer_macs(model))
        assert start.macs_in_front == pytest.approx(macs.stem / macs.total)
        assert start.removable == pytest.approx(1 - placement.least_retention)
        assert placement.least_retention < start.retention_target <= 1


@pytest.mark.parametrize(
    ("in_front", "proposed"),
    [
        pytest.param([0, 0.3, 0.5, 0.7], 2, id="first-with-half"),
        pytest.param([0, 0.3, 0.95], 1, id="not-where-nothing-is-behind"),
        pytest.param([0, 0.2], 1, id="nearest"),
        pytest.param([0.0], 0, id="only"),
    ],
)
def test_half_of_the_cost_is_proposed_for_the_stem(in_front, proposed):
    starts = [MaskStart(str(i), x, 0.5) for i, x in enumerate(in_front)]
    assert propose_start(starts).layer == str(proposed)
