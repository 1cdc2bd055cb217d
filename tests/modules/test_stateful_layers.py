"""Layers that know more than their weights: copies know it as well."""

import functools
import importlib

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from kmod.composition.composer import compose
from kmod.errors import UnsupportedModelError
from kmod.export.write import FORMS
from kmod.export.write import write_form
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph import set_state
from kmod.graph.fusion.fuse import fuse
from kmod.graph.sharing import merge_models
from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model
from kmod.modules.decompose import as_float32
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store
from kmod.modules.refine import JointModel
from kmod.spec.spec_file import write_spec

TOLERANCE = 1e-5
COLOURS = np.array([1.0, 0.5, 0.2]), np.array([0.0, 60.0, 120.0])


def pictures(count=8, seed=0):
    """Images from 0 to 255 whose channels differ in mean and variance."""
    draw = np.random.default_rng(seed).uniform(0, 255, (count, 8, 8, 3))
    scale, shift = COLOURS
    return (draw * scale + shift).clip(0, 255).astype("float32")


def adapted():
    layer = layers.Normalization()
    layer.adapt(pictures())
    return layer


def normalization(x):
    return adapted()(x)


def adapted_later(x):
    layer = layers.Normalization()
    x = layer(x)
    layer.adapt(pictures())
    return x


def one_statistic_for_all(x):
    layer = layers.Normalization(axis=None)
    layer.adapt(pictures())
    return layer(x)


def inverted(x):
    layer = layers.Normalization(invert=True)
    layer.adapt(pictures() / 100)
    return layer(x)


def constants(x):
    variance = [900.0, 3000.0, 5000.0]
    return layers.Normalization(mean=[120, 100, 90], variance=variance)(x)


def rescaling_lists(x):
    return layers.Rescaling([0.01, 0.02, 0.03], [-1.0, -2.0, 1.0])(x)


def bins(x):
    layer = layers.Discretization(num_bins=5)
    layer.adapt(pictures())
    return ops.cast(layer(x), "float32")


def boundaries(x):
    layer = layers.Discretization([50.0, 130.0], output_mode="one_hot")
    return layers.Reshape((8, 8, 9))(layer(x))


def embedded_bins(x):
    layer = layers.Discretization([50.0, 130.0])
    return layers.Reshape((8, 8, 12))(layers.Embedding(3, 4)(layer(x)))


def looked_up(x):
    layer = layers.IntegerLookup()
    layer.adapt(np.arange(3, 9).repeat(np.arange(6, 0, -1)))
    x = layer(ops.cast(x / 30, "int32"))
    return layers.Reshape((8, 8, 12))(layers.Embedding(7, 4)(x))


def nested(x):
    front = [layers.Rescaling(0.5), adapted(), layers.Conv2D(4, 1)]
    return keras.Sequential([keras.Input((8, 8, 3)), *front])(x)


def nested_twice(x):
    inner = keras.Sequential([keras.Input((8, 8, 3)), adapted()])
    return keras.Sequential([keras.Input((8, 8, 3)), inner])(x)


def pipeline(x):
    return layers.Pipeline([layers.Rescaling(0.5), adapted()])(x)


def by_row(x):
    layer = layers.Normalization()
    x = layers.TimeDistributed(layer)(x)
    layer.adapt(pictures().reshape(-1, 8, 3))
    return x


def shared(x):
    layer = adapted()
    return layers.Concatenate()([layer(x), layer(x * 0.5 + 20.0)])


def frozen(x):
    norm, conv = adapted(), layers.Conv2D(4, 1)
    x = conv(norm(x))
    norm.trainable = conv.trainable = False
    return x


def spectral(x):
    layer = layers.SpectralNormalization(layers.Conv2D(4, 3))
    x = layer(adapted()(x))
    layer(np.ones((1, 8, 8, 3)), training=True)
    return x


def low_rank(x):
    layer = layers.Conv2D(4, 3)
    x = layer(adapted()(x))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    return x


FRONTS = [
    normalization,
    adapted_later,
    one_statistic_for_all,
    inverted,
    constants,
    rescaling_lists,
    bins,
    boundaries,
    embedded_bins,
    looked_up,
    nested,
    nested_twice,
    pipeline,
    by_row,
    shared,
    frozen,
    spectral,
    low_rank,
]
# Those whose copies are wrong if they get weights alone.
DERIVED = [
    normalization,
    adapted_later,
    one_statistic_for_all,
    inverted,
    nested,
    nested_twice,
    pipeline,
    by_row,
    shared,
    frozen,
]


# One of each kind, for what takes longer.
KINDS = [normalization, bins, looked_up, nested, pipeline, by_row, shared]


def network(front):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv_1")(front(image))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, activation="relu", name="conv_2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


@functools.cache
def masked(front, **options):
    """A modular model whose classes keep different kernels."""
    modular = ModularModel(network(front), **options)
    modular.run_eagerly = True
    masks = np.ones_like(modular.kernel_masks)
    for index, mask in enumerate(masks):
        mask[modular.kernels.ids_of("conv_1")[index::3]] = 0
        mask[modular.kernels.ids_of("conv_2")[index::4]] = 0
    modular.kernel_masks = masks
    return modular


@functools.cache
def module(front, index):
    return cut_module(masked(front), index)


def gap(answers, expected):
    answers, expected = map(np.asarray, (answers, expected))
    return np.abs(answers - expected).max() / np.abs(expected).max()


def weights_alone(layer, weights):
    layer.set_weights(weights)


fronts = pytest.mark.parametrize("front", FRONTS, ids=lambda f: f.__name__)
kinds = pytest.mark.parametrize("front", KINDS, ids=lambda f: f.__name__)
derived = pytest.mark.parametrize("front", DERIVED, ids=lambda f: f.__name__)


@fronts
def test_unmasked_network_answers_as_the_source(front):
    source = network(front)
    modular, images = ModularModel(source), pictures(seed=1)
    expected = np.log(source(images, training=False))
    for logits in (
        modular.network.unmasked(images),
        modular.flat_source(images, training=False),
        rebuild(channel_graph(source))(images, training=False),
    ):
        assert gap(ops.log_softmax(logits), expected) < TOLERANCE


@fronts
def test_module_answers_as_the_masked_model(front):
    modular, images = masked(front), pictures(seed=1)
    expected = modular.class_log_odds(images)
    for index in range(3):
        answers = log_odds_model(module(front, index))(images)
        assert gap(answers, expected[:, [index]]) < TOLERANCE


@kinds
def test_merged_and_fused_modules_answer_as_they_do_alone(front):
    modular, images = masked(front), pictures(seed=1)
    modules = {
        f"m{index}": log_odds_model(module(front, index)) for index in range(3)
    }
    image, outputs = merge_models(modules.items())
    joined = layers.Concatenate()(list(outputs.values()))
    merged = keras.Model(image, joined)
    expected = modular.class_log_odds(images)
    assert gap(merged(images), expected) < TOLERANCE
    assert gap(fuse(merged)(images), expected) < TOLERANCE


@pytest.mark.parametrize("front", [nested, bins], ids=lambda f: f.__name__)
def test_store_and_composition_answer_as_the_masked_model(front, tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("SavedModels are written on the TensorFlow backend.")
    modular, images = masked(front), pictures(seed=1)
    decompose(modular, tmp_path / "store", value_range=(0, 255))
    store = load_store(tmp_path / "store")
    expected = modular.class_log_odds(images)
    for index, name in enumerate(store):
        answers = log_odds_model(store[name].model)(images)
        assert gap(answers, expected[:, [index]]) < TOLERANCE
        assert store.info(name).max_output_gap < TOLERANCE
    spec = {
        "version": 1,
        "name": "all",
        "stores": {"own": {"path": store.path}},
        "classes": [
            {"name": name, "module": {"store": "own", "class": name}}
            for name in store
        ],
    }
    write_spec(spec, tmp_path / "spec.yaml")
    composed = compose(tmp_path / "spec.yaml")(images, training=False)
    assert gap(np.log(composed), ops.log_softmax(expected)) < TOLERANCE


@kinds
def test_clone_of_a_refined_module_answers_as_the_module(front):
    modular, images = masked(front), pictures(seed=1)
    modules = [module(front, index) for index in range(3)]
    joint = JointModel(modules, modular.flat_source, 3.0)
    for index, own in enumerate(modules):
        clone = joint.weights_of(index, own)
        assert gap(clone(images), own(images)) < TOLERANCE


@kinds
def test_loaded_modular_model_answers_as_the_saved_one(front, tmp_path):
    modular, images = masked(front), pictures(seed=1)
    modular.save(tmp_path / "modular.keras")
    loaded = keras.models.load_model(tmp_path / "modular.keras")
    assert gap(loaded(images), modular(images)) < TOLERANCE
    answers = log_odds_model(cut_module(loaded, 1))(images)
    expected = modular.class_log_odds(images)[:, [1]]
    assert gap(answers, expected) < TOLERANCE


@kinds
def test_float32_twin_answers_as_a_float32_model(front):
    twin = as_float32(masked(front, dtype="mixed_bfloat16"))
    assert {
        part.dtype_policy.name
        for layer in twin.flat_source.layers
        for part in layer._flatten_layers()
        if not isinstance(part, layers.Pipeline)
    } == {"float32"}
    images = pictures(seed=1)
    expected = masked(front)
    # Heads start at random, from the seed of both.
    assert gap(twin(images), expected(images)) < TOLERANCE


@derived
def test_weights_alone_are_not_enough(front, monkeypatch):
    """The negative control: what a copy lacked is found and named."""
    rebuilding = importlib.import_module("kmod.graph.rebuild")
    monkeypatch.setattr(rebuilding, "set_state", weights_alone)
    with pytest.raises(UnsupportedModelError, match="a gap of .* first at"):
        ModularModel(network(front))


def test_set_state_takes_other_statistics():
    layer = adapted()
    mean, variance = np.array([1.0, 2.0, 3.0]), np.array([4.0, 9.0, 16.0])
    set_state(layer, [mean, variance, np.array(0)])
    images = pictures()
    expected = (images - mean) / np.sqrt(variance)
    np.testing.assert_allclose(layer(images), expected, rtol=1e-5)
    layer.set_weights([0 * mean, 0 * variance + 1, np.array(0)])
    np.testing.assert_allclose(layer(images), expected, rtol=1e-5)


def test_low_rank_adapter_is_part_of_the_kernels():
    source = network(low_rank)
    layer = next(each for each in source.layers if hasattr(each, "lora_rank"))
    flat = rebuild(channel_graph(source)).get_layer(layer.name)
    assert not flat.lora_enabled
    np.testing.assert_allclose(flat.kernel, layer.kernel, rtol=1e-6)
    assert len(flat.get_weights()) == 2


def test_quantised_layers_are_refused():
    source = network(normalization)
    source.quantize("int8")
    with pytest.raises(UnsupportedModelError, match="'dense.*' in 'int8'"):
        ModularModel(source)


@keras.saving.register_keras_serializable(package="tests")
class Remembers(layers.Layer):
    """A layer that keeps what it has learned to itself."""

    offset = 0.0

    def adapt(self, images):
        self.offset = float(images.mean())

    def call(self, inputs):
        return inputs - self.offset


def test_state_outside_weights_and_config_is_refused():
    layer = Remembers(name="remembers")
    layer.adapt(pictures())
    with pytest.raises(
        UnsupportedModelError, match="first at layer 'remembers'.*its weights"
    ):
        ModularModel(network(layer))


def test_no_form_of_a_model_holds_what_acts_in_training_only(tmp_path):
    augmentation = keras.Sequential(
        [layers.RandomFlip(), layers.RandomRotation(0.1)], name="augmentation"
    )
    image = keras.Input((8, 8, 3))
    x = layers.CenterCrop(6, 6)(layers.Resizing(7, 7)(augmentation(image)))
    x = layers.Rescaling(1 / 255)(layers.GaussianNoise(0.1)(x))
    x = layers.SpatialDropout2D(0.5)(layers.Conv2D(4, 3)(x))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    source = keras.Model(image, layers.Dense(2)(x))
    modular = ModularModel(source, class_names=["a", "b"])
    masks = np.ones((2, 4))
    masks[0, 1] = masks[1, 2] = 0
    modular.kernel_masks = masks
    images = pictures()
    store = decompose(modular, tmp_path / "store", value_range=(0, 255))
    spec = {
        "version": 1,
        "name": "two",
        "stores": {"s": {"path": tmp_path / "store"}},
        "classes": [
            {"name": name, "module": {"store": "s", "class": name}}
            for name in store
        ],
    }
    write_spec(spec, tmp_path / "spec.yaml")
    composed = compose(tmp_path / "spec.yaml")
    scores = modular.class_log_odds(images)
    np.testing.assert_allclose(
        composed(images, training=True), ops.softmax(scores), atol=TOLERANCE
    )
    front = {"Resizing", "CenterCrop", "Rescaling"}
    for model in (store["a"].model, composed):
        kinds = {type(layer).__name__ for layer in model._flatten_layers()}
        assert front <= kinds
        assert not any("Random" in k or "Dropout" in k for k in kinds)
        assert "GaussianNoise" not in kinds
    for form in ("savedmodel", "litert"):
        path = tmp_path / form
        write_form(composed, ("a", "b"), form, path, images)
        answers = FORMS[form].predict(path, images)["probabilities"]
        np.testing.assert_allclose(answers, composed(images), atol=TOLERANCE)
    graph = (tmp_path / "savedmodel/saved_model.pb").read_bytes()
    assert b"Stateless" not in graph and b"random_" not in graph
