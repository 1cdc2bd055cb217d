import pytest
from keras import layers

BY_POSITION = 4 * [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("stack", "axis", "groups"),
    [
        pytest.param(
            [layers.GlobalMaxPooling2D(name="last")], 1, [0, 1, 2, 3], id="pool"
        ),
        pytest.param(
            [layers.GlobalAveragePooling2D(keepdims=True, name="last")],
            3,
            [0, 1, 2, 3],
            id="pool-keepdims",
        ),
        pytest.param(
            [layers.Flatten(name="last")], 1, BY_POSITION, id="flatten"
        ),
        pytest.param(
            [layers.Reshape((4, 4), name="last")], 2, [0, 1, 2, 3], id="rows"
        ),
        pytest.param(
            [layers.Reshape((-1, 1, 4), name="last")],
            3,
            [0, 1, 2, 3],
            id="flat-image",
        ),
        pytest.param(
            [layers.Reshape((16, 1), name="last")],
            1,
            BY_POSITION,
            id="as-length",
        ),
        pytest.param(
            [
                layers.GlobalAveragePooling2D(),
                layers.Reshape((1, 1, 4), name="last"),
            ],
            3,
            [0, 1, 2, 3],
            id="squeezed",
        ),
        pytest.param(
            [layers.Reshape((2, 8), name="last")],
            2,
            BY_POSITION[:8],
            id="pairs",
        ),
        pytest.param(
            [layers.Permute((3, 1, 2), name="last")],
            1,
            [0, 1, 2, 3],
            id="permute",
        ),
        pytest.param(
            [layers.Permute((3, 1, 2)), layers.Flatten(name="last")],
            1,
            [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4,
            id="permuted-flatten",
        ),
        pytest.param(
            [
                layers.GlobalAveragePooling2D(),
                layers.RepeatVector(3, name="last"),
            ],
            2,
            [0, 1, 2, 3],
            id="repeat",
        ),
    ],
)
def test_kernels_are_followed(flow_of, stack, axis, groups):
    def body(image, made):
        for layer in (layers.MaxPooling2D(), *stack):
            made = layer(made)
        return layers.Flatten()(made)

    flow = flow_of(body)
    call = next(c for c in flow.graph.trace.calls if c.name == "last")
    assert flow.at("last") == groups
    assert flow.graph.map_of(call.outputs[0]).axis == axis
    assert flow.free == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        pytest.param(
            layers.Reshape((32, 2), name="mixer"),
            (4, 4, 3),
            "it mixes channels and positions",
            id="mixing",
        ),
        pytest.param(
            layers.Reshape((-1, 4), name="mixer"),
            (None, 4, 3),
            "it reshapes an image of unknown size",
            id="unknown-size",
        ),
        pytest.param(
            layers.GlobalAveragePooling2D(
                data_format="channels_first", name="mixer"
            ),
            (4, 4, 3),
            "it works across the channel axis",
            id="pooling-of-channels",
        ),
    ],
)
def test_layer_pins(flow_of, layer, shape, reason):
    flow = flow_of(lambda x, y: layer(y), shape=shape)
    assert flow.at("mixer") is None
    assert flow.free == [0, 0, 0, 0]
    assert flow.pins == {"mixer": reason}


def test_flatten_reads_channels_first_images_in_channels_last_order(flow_of):
    first = {"data_format": "channels_first"}
    flow = flow_of(
        lambda x, y: layers.Flatten(name="last", **first)(y),
        shape=(3, 2, 2),
        **first,
    )
    assert flow.at("last") == BY_POSITION


def test_image_reshaped_has_no_kernels(flow_of):
    flow = flow_of(lambda x, y: layers.Flatten(name="flat")(x))
    assert flow.at("flat") is None
    assert flow.pins == {}
