import keras
import numpy as np
import pytest
from keras import layers

from kmod.graph.content import content_digest
from kmod.graph.fusion.fuse import added_zeros
from kmod.graph.fusion.fuse import block_diagonal
from kmod.graph.fusion.fuse import category_of
from kmod.graph.fusion.fuse import common_name
from kmod.graph.fusion.fuse import fuse
from kmod.graph.fusion.fuse import is_pooling
from kmod.graph.fusion.fuse import side_by_side
from kmod.graph.fusion.fuse import signature
from kmod.graph.fusion.slices import Slice
from kmod.graph.fusion.slices import slices_of
from kmod.graph.sizes import model_sizes
from kmod.graph.trace import trace

BRANCHES = "abcd"


def conv(x, owner, name, filters, size=3):
    x = layers.Conv2D(filters, size, padding="same", name=f"{owner}_{name}")(x)
    x = layers.BatchNormalization(name=f"{owner}_bn_{name}")(x)
    return layers.ReLU(name=f"{owner}_relu_{name}")(x)


def score(x, owner, units=5):
    x = layers.Dense(units, name=f"{owner}_logits")(x)
    return layers.Dense(1, name=f"{owner}_score")(x)


def plain(x, owner, index):
    x = conv(x, owner, "conv_1", 2 + index)
    x = layers.MaxPooling2D(name=f"{owner}_pool")(
        conv(x, owner, "conv_2", 4 - index)
    )
    x = layers.Flatten(name=f"{owner}_flatten")(x)
    x = layers.Dense(3, activation="relu", name=f"{owner}_hidden")(x)
    return score(x, owner)


def residual(x, owner, index):
    first = layers.MaxPooling2D()(conv(x, owner, "conv_1", 2 + index))
    x = conv(first, owner, "conv_2", 2 + index)
    x = layers.Add(name=f"{owner}_add")([x, first])
    return score(layers.GlobalAveragePooling2D()(x), owner)


def one_pixel(x, owner, index):
    """Convolutions of one pixel, one with a join of what all branches read."""
    x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{owner}_pixel")(x)
    first = conv(x, owner, "conv_1", 2 + index)
    first = conv(first, owner, "conv_2", 3)
    x = layers.Add(name=f"{owner}_add")([first, x])
    return score(layers.Flatten()(x), owner)


def early_join(x, owner, index):
    """Joins two layers of the same input, with a layer and an operation."""
    one, two = (conv(x, owner, f"conv_{i}", 2 + index, i) for i in (1, 3))
    x = layers.Maximum(name=f"{owner}_max")([one, two]) + one
    return score(layers.GlobalMaxPooling2D()(x), owner)


def inception(x, owner, index):
    for block in range(2):
        x = layers.Concatenate(name=f"{owner}_concat_{block}")(
            [
                conv(x, owner, f"conv_{block}_{size}", 1 + index, size)
                for size in (1, 3)
            ]
        )
    return score(layers.GlobalAveragePooling2D()(x), owner)


def uneven(x, owner, index):
    """Branches that part ways: one has a layer more than the others."""
    x = conv(x, owner, "conv_1", 3)
    if index == 1:
        x = conv(x, owner, "conv_2", 3)
    x = layers.Flatten(name=f"{owner}_flatten")(layers.AveragePooling2D(2)(x))
    return score(x, owner)


def shared_layer(x, owner, index):
    layer = layers.Conv2D(3, 3, padding="same", name=f"{owner}_twice")
    x = layer(layer(conv(x, owner, "conv_1", 3)))
    return score(layers.Flatten()(x), owner)


@keras.saving.register_keras_serializable("test_fuse")
class ChannelMean(keras.layers.Layer):
    """A layer that nothing is known of."""

    def call(self, inputs):
        return keras.ops.mean(inputs, axis=-1)


def unknown(x, owner, index):
    x = ChannelMean(name=f"{owner}_mean")(conv(x, owner, "conv_1", 2 + index))
    return score(layers.Flatten()(x), owner)


TOPOLOGIES = [
    plain,
    residual,
    one_pixel,
    early_join,
    inception,
    uneven,
    shared_layer,
    unknown,
]


def composed(branch, num_stems=1):
    """A model of branches behind a stem, or several."""

    def network(image):
        stems = [conv(image, f"stem_{i}", "conv", 3) for i in range(num_stems)]
        scores = [
            branch(stems[index % num_stems], owner, index)
            for index, owner in enumerate(BRANCHES)
        ]
        return layers.Concatenate(name="log_odds")(scores)

    return network


@pytest.mark.parametrize("num_stems", [1, 2])
@pytest.mark.parametrize("dense_share", [0, 9.0])
@pytest.mark.parametrize("branch", TOPOLOGIES)
def test_answers_stay(build, gap_of, branch, dense_share, num_stems):
    model = build(composed(branch, num_stems))
    fused = fuse(model, dense_share)
    assert gap_of(model, fused) < 1e-5
    assert len(fused.operations) < len(model.operations)
    assert fused.name == "m"
    assert fused.inputs[0].name == "image"
    assert fused.output_names == ["log_odds"]


@pytest.mark.parametrize("branch", [plain, one_pixel, inception])
def test_every_weight_counts(build, gap_of, branch):
    """The gap of the test above would show a wrong weight of any layer."""
    model = build(composed(branch))
    fused = fuse(model, 9.0)
    for layer in model.layers:
        weights = layer.get_weights()
        if weights and layer.name.startswith("c_"):
            layer.set_weights([weights[0] + 0.3, *weights[1:]])
            changed = fuse(model, 9.0)
            assert gap_of(fused, changed) > 1e-4
            assert gap_of(model, changed) < 1e-5
            layer.set_weights(weights)


def names_of(model):
    return [operation.name for operation in model.operations]


def test_branches_become_wide_layers(build):
    fused = fuse(build(composed(plain)), 9.0)
    assert sorted(names_of(fused)) == sorted(
        ["image", "stem_0_conv", "all_conv_1", "parts"]
        + [f"{owner}_conv_2" for owner in BRANCHES]
        + ["joined", "all_pool", "flat", "all_hidden", "all_score", "log_odds"]
    )
    assert fused.get_layer("all_conv_1").filters == 2 + 3 + 4 + 5
    assert fused.get_layer("all_score").units == 4


def test_work_stays_but_for_the_zeros(build):
    model = build(composed(plain))
    macs = model_sizes(model).macs
    apart = model_sizes(fuse(model, 0)).macs
    saved = sum(5 * 3 + 5 * 1 - 3 for _ in BRANCHES)  # Two Dense become one.
    assert apart == macs - saved
    joined = model_sizes(fuse(model, 9.0)).macs
    hidden, last = 4 * 4 * (4 + 3 + 2 + 1) * 3 * 3, 4 * 4 * 3 - 4 * 3
    assert joined == apart + hidden + last


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_zeros_stay_within_their_share(build, share):
    model = build(composed(plain))
    apart, joined = (fuse(model, s) for s in (0, share))
    added = model_sizes(joined).macs - model_sizes(apart).macs
    assert 0 <= added <= share * model_sizes(model).macs
    assert (added > 0) == (share > 0)


@pytest.mark.parametrize(("share", "is_joined"), [(0.1, False), (1.0, True)])
def test_zeros_are_few_beside_the_parameters(build, share, is_joined):
    """Large Dense layers behind cheap convolutions stay apart."""

    def large(x, owner, index):
        x = layers.Flatten()(conv(x, owner, "conv_1", 1))
        return score(layers.Dense(9, name=f"{owner}_wide")(x), owner)

    model = build(composed(large))
    apart, joined = (fuse(model, s) for s in (0, share))
    before, after = (model_sizes(m).parameters for m in (apart, joined))
    assert after - before <= 2 * share * model_sizes(model).parameters
    assert (after - before > before / 2) == is_joined


def test_residual_joins_work_on_wide_tensors(build):
    names = names_of(fuse(build(composed(early_join)), 9.0))
    assert {"all_max", "all_conv_1", "all_conv_3"} <= set(names)
    assert "parts" not in names


def test_branches_of_one_pixel_become_wide_layers(build):
    """Each has a pooling layer and a join, of tensors that all share."""
    names = names_of(fuse(build(composed(one_pixel)), 9.0))
    assert sorted(name for name in names if name.startswith("all_")) == [
        "all_add",
        "all_conv_1",
        "all_conv_2",
        "all_pixel",
        "all_score",
    ]
    assert "parts" not in names


def test_joined_channels_are_not_moved(build):
    """Pooling and Dense read three wide tensors, not each branch's own."""

    def one_block(x, owner, index):
        x = layers.Concatenate(name=f"{owner}_concat")(
            [conv(x, owner, f"conv_{size}", 1 + index, size) for size in (1, 3)]
        )
        return score(layers.GlobalAveragePooling2D()(x), owner)

    names = names_of(fuse(build(composed(one_block)), 9.0))
    assert "parts" not in names
    assert not any(name.endswith("_concat") for name in names)
    assert names.count("joined") == 1


def test_fused_model_is_saved_and_loaded(build, gap_of, tmp_path):
    fused = fuse(build(composed(inception)))
    fused.save(tmp_path / "fused.keras")
    loaded = keras.saving.load_model(tmp_path / "fused.keras", safe_mode=True)
    assert gap_of(fused, loaded) == 0
    assert content_digest(loaded) == content_digest(fused)


def test_same_model_twice_is_the_same(build):
    model = build(composed(plain))
    assert content_digest(fuse(model)) == content_digest(fuse(model))


def test_fused_again_answers_the_same(build, gap_of):
    once = fuse(build(composed(inception)))
    assert gap_of(once, fuse(once)) < 1e-5


def test_image_of_integers(build):
    image = keras.Input((8, 8, 1), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(image)
    model = keras.Model(image, composed(plain)(x))
    fused = fuse(model)
    assert fused.inputs[0].dtype == "uint8"
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (3, 8, 8, 1)).astype("uint8")
    np.testing.assert_allclose(model(images), fused(images), atol=1e-5)


def test_images_of_unknown_size(build):
    def network(x):
        scores = [
            score(layers.GlobalAveragePooling2D()(conv(x, o, "conv", 2)), o)
            for o in BRANCHES
        ]
        return layers.Concatenate()(scores)

    model = build(network, (None, None, 1))
    images = np.random.default_rng(0).normal(size=(2, 6, 5, 1))
    np.testing.assert_allclose(model(images), fuse(model)(images), atol=1e-5)


def call_of(function, shape=(8, 8, 2)):
    """The last call of a model."""
    image = keras.Input(shape)
    return trace(keras.Model(image, function(image))).calls[-1]


@pytest.mark.parametrize(
    ("function", "category"),
    [
        (layers.Conv2D(2, 3), "linear"),
        (layers.Conv2D(2, 3, groups=2), None),
        (layers.MaxPooling2D(data_format="channels_first"), None),
        (layers.DepthwiseConv2D(3), None),
        (layers.Dense(2), "linear"),
        (layers.MaxPooling2D(), "channelwise"),
        (layers.ReLU(), "channelwise"),
        (layers.Activation("tanh"), "channelwise"),
        (layers.Activation("softmax"), None),
        (layers.PReLU(), None),
        (layers.LayerNormalization(), None),
        (layers.Flatten(), "flatten"),
        (lambda x: layers.Concatenate()([x, x]), "concatenate"),
        (lambda x: layers.Concatenate(axis=1)([x, x]), None),
        (lambda x: keras.ops.concatenate([x, x], axis=-1), "concatenate"),
        (lambda x: x + x, "channelwise"),
        (lambda x: x * 2.0, "channelwise"),
        (lambda x: x * keras.ops.ones((2,)), None),
        (lambda x: keras.ops.relu(x), "channelwise"),
    ],
)
def test_calls_are_merged_by_what_they_do(function, category):
    assert category_of(call_of(function)) == category


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (layers.Conv2D(2, 3), layers.Conv2D(5, 3), True),
        (layers.Conv2D(2, 3), layers.Conv2D(2, 1), False),
        (layers.Conv2D(2, 3), layers.Conv2D(2, 3, strides=2), False),
        (layers.Conv2D(2, 3), layers.Conv2D(2, 3, activation="relu"), False),
        (
            layers.Conv2D(2, 3),
            layers.Conv2D(2, 3, kernel_regularizer="l2"),
            True,
        ),
        (layers.Dense(2), layers.Dense(2, use_bias=False), False),
        (lambda x: x * 2.0, lambda x: x * 2.0, True),
        (lambda x: x * 2.0, lambda x: x * 3.0, False),
    ],
)
def test_signature_holds_all_but_the_number_of_kernels(one, other, is_same):
    keys = [signature(call_of(function)) for function in (one, other)]
    assert (keys[0] == keys[1]) == is_same


def test_signature_needs_images_of_one_size_but_not_channels():
    keys = [
        signature(call_of(layers.ReLU(), shape))
        for shape in ((8, 8, 2), (8, 8, 3), (8, 4, 2))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_pooling_layers_are_known():
    assert is_pooling(call_of(layers.AveragePooling2D(2)))
    assert is_pooling(call_of(layers.GlobalMaxPooling2D()))
    assert not is_pooling(call_of(layers.ReLU()))


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["cat_conv_1"], "cat_conv_1"),
        (["cat_conv_1", "dog_conv_1"], "all_conv_1"),
        (["cat_conv_1", "cat_conv_2"], "cat_conv_1"),
        (["conv_1", "conv_1"], "all_conv_1"),
    ],
    ids=["alone", "alike", "unlike", "equal"],
)
def test_wide_layer_is_named_by_what_names_end_with(names, name):
    assert common_name(names) == name


def dense(kernel, bias):
    layer = layers.Dense(len(bias))
    layer.build((None, len(kernel)))
    layer.set_weights([np.array(kernel), np.array(bias)])
    return layer


def test_kernels_of_one_input_lie_side_by_side():
    first = dense([[1.0], [2.0]], [3.0])
    second = dense([[4.0, 5.0], [6.0, 7.0]], [8.0, 9.0])
    config, (kernel, bias) = side_by_side([first, second])
    assert config["units"] == 3
    np.testing.assert_array_equal(kernel, [[1, 4, 5], [2, 6, 7]])
    np.testing.assert_array_equal(bias, [3, 8, 9])


def test_block_diagonal_has_zeros_elsewhere():
    first, second = dense([[1.0], [2.0]], [3.0]), dense([[4.0]], [5.0])
    one, two = slices_of(keras.Input((3,)), [1, 2])
    config, (kernel, bias) = block_diagonal([first, second], [two, one])
    assert config["units"] == 2
    np.testing.assert_array_equal(kernel, [[0, 4], [1, 0], [2, 0]])
    np.testing.assert_array_equal(bias, [3, 5])
    assert added_zeros([first, second], [two, one]) == 3


def test_block_diagonal_of_flat_images_goes_by_position():
    """Two positions of two channels: a position's channels lie together."""
    first, second = dense([[1.0], [2.0]], [0.0]), dense([[3.0], [4.0]], [0.0])
    one, two = slices_of(keras.Input((2, 2)), [1, 1])
    flat = [Slice(x.parts, is_flat=True) for x in (one, two)]
    _, (kernel, _) = block_diagonal([first, second], flat)
    np.testing.assert_array_equal(kernel, [[1, 0], [0, 3], [2, 0], [0, 4]])
    assert added_zeros([first, second], flat) == 4


def test_unknown_size_is_not_counted():
    (one,) = slices_of(keras.Input((None, None)), [None])
    assert added_zeros([dense([[1.0]], [0.0])] * 2, [one, one]) is None
