import keras
import numpy as np
import pytest
from keras import layers

from kmod.graph.content import content_digest
from kmod.graph.fusion.fuse import fuse
from kmod.graph.sizes import model_sizes

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


@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 1.0])
def test_zeros_stay_within_their_share(build, share):
    model = build(composed(plain))
    added = model_sizes(fuse(model, share)).macs - model_sizes(model).macs
    assert added <= share * model_sizes(model).macs


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
