import keras
import numpy as np
import pytest
from keras import layers

from kmod.graph import rebuild
from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import features_model
from kmod.modules.cut import log_odds_model

TOLERANCE = 1e-4


def network():
    """Two convolutions of four kernels and a hidden layer of four units."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(4, 3, name="second"),
            layers.Flatten(name="flatten"),
            layers.Dense(4, activation="relu", name="hidden"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


@pytest.fixture
def source(exactness):
    keras.utils.set_random_seed(0)
    model = network()
    exactness.randomise(model)
    return model


@pytest.fixture
def images(exactness, source):
    return exactness.random_images(source, 6)


@pytest.fixture
def modular(source):
    model = ModularModel(source)
    model.run_eagerly = True
    return model


def masks_without(modular, *removed):
    """Masks of all classes with ones but for kernel ids."""
    masks = np.ones((modular.num_classes, len(modular.kernels)), int)
    masks[:, list(removed)] = 0
    return masks


def gap(expected, answer):
    return np.abs(expected - answer).max() / np.abs(expected).max()


def test_module_answers_a_probability(exactness, modular, images):
    exactness.randomise_classes(modular, 0.6)
    module = cut_module(modular, 1)
    scores = module.predict(images, verbose=0)
    assert scores.shape == (6, 1)
    expected = modular.class_scores(images, class_indices=[1])
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    log_odds = log_odds_model(module).predict(images, verbose=0)
    np.testing.assert_allclose(
        log_odds, modular.class_log_odds(images)[:, [1]], rtol=1e-3, atol=1e-3
    )


def test_unmasked_network_gives_the_sources_own_logits(modular, source, images):
    logits = rebuild(modular.graph).predict(images, verbose=0)
    own = modular.network(images, modular.masks())
    for row in range(modular.num_classes):
        np.testing.assert_allclose(own[:, row], logits, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        keras.ops.softmax(logits), source.predict(images, verbose=0), atol=1e-5
    )


def test_zeros_in_front_of_batch_normalization_are_not_removal(source, images):
    """The negative control: a mask at the wrong place fails the check."""
    source.get_layer("norm").beta.assign([3, 3, 3, 3])
    modular = ModularModel(source, recipe="paper")
    mask = masks_without(modular, 0, 2)[0]
    cut = rebuild(modular.graph, mask).predict(images, verbose=0)

    def zeroed(layer_name):
        network = rebuild(modular.graph)
        layer = network.get_layer(layer_name)
        kept = mask[modular.kernels.ids_of("first")]
        kernel, bias = layer.get_weights()
        if layer_name == "first":
            layer.set_weights([kernel * kept, bias * kept])
        else:
            layer.set_weights([kernel * kept[:, None], bias])
        return network.predict(images, verbose=0)

    assert gap(zeroed("second"), cut) < TOLERANCE
    assert gap(zeroed("first"), cut) > 100 * TOLERANCE


def test_removed_kernels_are_gone_from_every_layer(modular):
    modular.kernel_masks = masks_without(modular, 0, 5, 6, 9, 10, 11)
    module = cut_module(modular, 0)
    assert module.get_layer("first").filters == 3
    assert module.get_layer("norm").gamma.shape == (3,)
    assert module.get_layer("second").kernel.shape == (3, 3, 3, 2)
    assert module.get_layer("hidden").kernel.shape == (2 * 2 * 2, 1)
    assert module.get_layer("out").kernel.shape == (1, 3)


def test_kept_weights_are_the_sources(modular, source):
    modular.kernel_masks = masks_without(modular, 1, 6)
    module = cut_module(modular, 0)
    kernel, bias = module.get_layer("second").get_weights()
    old_kernel, old_bias = source.get_layer("second").get_weights()
    expected = old_kernel[:, :, [0, 2, 3]][..., [0, 1, 3]]
    np.testing.assert_array_equal(kernel, expected)
    np.testing.assert_array_equal(bias, old_bias[[0, 1, 3]])


@pytest.fixture
def scaled(modular):
    """Class 0 scales every channel by 2, 3, 4, 5 and shifts by 1, 2, 3, 4."""
    modular.kernel_masks = masks_without(modular, 0, 5)
    for adapter in modular.network.adapters.values():
        for weight, values in ((adapter.scale, 2), (adapter.shift, 1)):
            table = keras.ops.convert_to_numpy(weight).copy()
            table[0] = values + np.arange(4)
            weight.assign(table)
    return modular


def test_scale_and_shift_go_into_batch_normalization(scaled, source):
    assert sorted(scaled.placement.adapted) == ["hidden", "norm", "second"]
    gamma, beta, mean, variance = source.get_layer("norm").get_weights()
    cut = cut_module(scaled, 0).get_layer("norm").get_weights()
    factor, offset = np.array([3, 4, 5]), np.array([2, 3, 4])
    np.testing.assert_allclose(cut[0], gamma[1:] * factor, rtol=1e-6)
    np.testing.assert_allclose(cut[1], beta[1:] * factor + offset, rtol=1e-5)
    np.testing.assert_array_equal(cut[2], mean[1:])
    np.testing.assert_array_equal(cut[3], variance[1:])


def test_scale_and_shift_go_into_a_convolution_with_bias(scaled, source):
    kernel, bias = source.get_layer("second").get_weights()
    cut = cut_module(scaled, 0).get_layer("second").get_weights()
    factor, offset = np.array([2, 4, 5]), np.array([1, 3, 4])
    kept = kernel[:, :, 1:][..., [0, 2, 3]] * factor
    np.testing.assert_allclose(cut[0], kept, rtol=1e-6)
    np.testing.assert_allclose(
        cut[1], bias[[0, 2, 3]] * factor + offset, rtol=1e-5
    )


def test_gains_go_into_what_reads_the_channels(modular, source):
    modular.kernel_masks = masks_without(modular, 1)
    assert list(modular.placement.gained) == ["second", "hidden", "out"]
    gain = modular.get_layer("second").gain
    table = keras.ops.convert_to_numpy(gain).copy()
    table[0] = [2, 3, 4, 5]
    gain.assign(table)
    kernel = source.get_layer("second").get_weights()[0][:, :, [0, 2, 3]]
    factor = np.array([2, 4, 5])[:, None]
    for index, expected in ((0, kernel * factor), (1, kernel)):
        cut = cut_module(modular, index).get_layer("second").get_weights()[0]
        np.testing.assert_allclose(cut, expected, rtol=1e-6)


def test_modules_of_one_score_complement_each_other():
    image = keras.Input((8, 8, 3))
    features = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    features = layers.GlobalAveragePooling2D()(features)
    answer = layers.Dense(1, activation="sigmoid")(features)
    source = keras.Model(image, answer)
    modular = ModularModel(source, ["no", "yes"])
    drawn = np.random.default_rng(0).normal(size=(6, 8, 8, 3))
    expected = source.predict(drawn, verbose=0)
    no, yes = (cut_module(modular, index) for index in range(2))
    log_odds = log_odds_model(yes).predict(drawn, verbose=0)
    logit = np.log(expected / (1 - expected))
    np.testing.assert_allclose(2 * log_odds, logit, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        no.predict(drawn, verbose=0),
        1 - yes.predict(drawn, verbose=0),
        rtol=1e-5,
    )
    modular.kernel_masks = masks_without(modular, 2)
    assert cut_module(modular, 1).get_layer("conv").filters == 3
    smaller = cut_module(modular, 1).predict(drawn, verbose=0)
    masked = modular.class_scores(drawn)[:, 1:]
    np.testing.assert_allclose(smaller, masked, rtol=1e-4)
    assert np.abs(smaller - yes.predict(drawn, verbose=0)).max() > 1e-3


@pytest.mark.parametrize("hidden_units", [0, 4], ids=["head", "hidden-head"])
def test_features_are_what_the_last_layer_takes(source, images, hidden_units):
    modular = ModularModel(source, list("abc"), hidden_units=hidden_units)
    features = features_model(cut_module(modular, 1))
    expected = keras.Model(source.inputs, source.get_layer("hidden").output)
    np.testing.assert_allclose(
        features.predict(images, verbose=0),
        expected.predict(images, verbose=0),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("kind", "size"), [("one-score", 4), ("no-dense-layer", 3)]
)
def test_features_of_other_last_layers(kind, size):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    if kind == "one-score":
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(1, activation="sigmoid")(x)
    else:  # Its logits are all that there is.
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1)(x))
    modular = ModularModel(keras.Model(image, x))
    assert features_model(cut_module(modular, 1)).output_shape == (None, size)


def test_other_classes_keep_their_own_scales(scaled, source):
    gamma = source.get_layer("norm").get_weights()[0]
    cut = cut_module(scaled, 1).get_layer("norm").get_weights()[0]
    np.testing.assert_array_equal(cut, gamma[1:])


def test_calibration_is_the_last_dense_layer(modular):
    modular.set_calibration([1, 2, 3], [4, 5, 6])
    scale, shift = cut_module(modular, 2).get_layer("calibration").get_weights()
    assert (scale.item(), shift.item()) == (3, 6)


def test_module_holds_plain_layers_only(exactness, modular, source):
    exactness.randomise_classes(modular, 0.6)
    module = cut_module(modular, 0)
    modules = {type(layer).__module__ for layer in module.layers}
    assert all(name.startswith("keras.src.layers.") for name in modules)
    assert module.count_params() < source.count_params()
    assert {layer.dtype for layer in module.layers} == {"float32"}
    copy = keras.Model.from_config(module.get_config())
    assert copy.output_shape == (None, 1)


@pytest.mark.parametrize("recipe", ["default", "paper"])
@pytest.mark.parametrize("mask_from", ["first", "second", "hidden"])
def test_stem_is_kept_whole(exactness, source, images, mask_from, recipe):
    modular = ModularModel(source, recipe=recipe, mask_from=mask_from)
    modular.run_eagerly = True
    exactness.randomise_classes(modular, 0.3, seed=1)
    assert exactness.output_gap(modular, images, 1)[0] < TOLERANCE
    module = cut_module(modular, 1)
    names = ["first", "second", "hidden"]
    for name in names[: names.index(mask_from)]:
        kernel, bias = module.get_layer(name).get_weights()
        old_kernel, old_bias = source.get_layer(name).get_weights()
        np.testing.assert_array_equal(kernel, old_kernel)
        np.testing.assert_array_equal(bias, old_bias)


def test_source_is_not_changed(exactness, source, images):
    config, weights = source.get_config(), source.get_weights()
    modular = ModularModel(source)
    exactness.randomise_classes(modular, 0.6)
    cut_module(modular, 0).predict(images, verbose=0)
    assert source.get_config() == config
    assert all(map(np.array_equal, weights, source.get_weights()))
    assert all(layer.trainable for layer in source.layers)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(exactness, source, images, policy):
    modular = ModularModel(source, dtype=policy)
    modular.run_eagerly = True
    exactness.randomise_classes(modular, 0.6)
    assert modular.flat_source.get_layer("first").dtype_policy.name == policy
    own = [*modular.trainable_weights, modular.masks.mask, modular.calibration]
    assert {weight.dtype for weight in own} == {"float32"}
    module = cut_module(modular, 0)
    assert {layer.dtype_policy.name for layer in module.layers} == {"float32"}
    gap, _ = exactness.output_gap(modular, images, 0)
    assert gap < 0.1
