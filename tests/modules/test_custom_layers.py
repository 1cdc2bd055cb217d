"""Layers of a user's own in modules: let in by the user's word alone."""

import json
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kmod
from kmod.cli.main import main
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.export.keras_file import load_keras_file
from kmod.files.custom_layers import custom_layers_scope
from kmod.graph.rules.table import _registered
from kmod.modules.cut import log_odds_model
from kmod.spec.spec_file import write_spec

OWN_LAYERS = """
import keras
import kmod

@keras.saving.register_keras_serializable(package="pets")
class Gain(keras.layers.Layer):
    def build(self, input_shape):
        start = keras.initializers.RandomUniform(0.5, 1.5, seed=0)
        self.gain = self.add_weight((input_shape[-1],), start, name="gain")

    def call(self, inputs):
        return inputs * self.gain

kmod.register_channel_rule(Gain, kmod.graph.PassThrough(weights={0: -1}))
"""


@pytest.fixture(scope="module")
def gain(tmp_path_factory):
    """A module of layers as a user has it, `kmod_test_layers`."""
    folder = tmp_path_factory.mktemp("layers")
    (folder / "kmod_test_layers.py").write_text(OWN_LAYERS)
    sys.path.insert(0, str(folder))
    import kmod_test_layers

    yield kmod_test_layers.Gain
    sys.path.remove(str(folder))
    del sys.modules["kmod_test_layers"], _registered[kmod_test_layers.Gain]
    del keras.saving.get_custom_objects()["pets>Gain"]


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    return draw.uniform(0, 1, (8, 6, 6, 3)).astype("float32")


@pytest.fixture(scope="module")
def modular(gain):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = gain()(layers.Conv2D(5, 3, activation="relu")(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))
    source = keras.Model(image, layers.Dense(2)(x))
    modular = kmod.ModularModel(source, class_names=["cat", "dog"])
    mask = np.ones((2, 9))
    mask[0, [1, 6]] = mask[1, [3, 4]] = 0
    modular.kernel_masks = mask
    return modular


@pytest.fixture(scope="module")
def store_path(modular, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "pets"
    kmod.decompose(modular, path, value_range=(0, 1))
    return path


@pytest.fixture(scope="module")
def composed_path(store_path, gain):
    def of(name):
        module = {"store": "own", "class": name}
        return {"name": name, "module": module}

    spec = {
        "version": 1,
        "name": "pets",
        "stores": {"own": {"path": store_path}},
        "classes": [of("cat"), of("dog")],
    }
    path = store_path.parent / "spec.yaml"
    write_spec(spec, path)
    composed = store_path.parent / "composed"
    with pytest.raises(ArtifactError, match="pets>Gain"):
        kmod.compose(path)
    kmod.save(kmod.compose(path, custom_layers=[gain]), composed)
    return composed


def test_modules_with_a_layer_are_cut_exactly(
    modular, store_path, gain, images
):
    store = kmod.load_store(store_path, custom_layers=[gain])
    expected = modular.class_log_odds(images)
    scale = np.abs(expected).max()
    for index, name in enumerate(store):
        model = store[name].model
        assert any(isinstance(layer, gain) for layer in model.layers)
        answers = log_odds_model(model).predict(images, verbose=0)[:, 0]
        gaps = np.abs(expected - answers[:, None]).max(0) / scale
        assert gaps[index] < 1e-5 < gaps[1 - index]


def test_store_names_its_layers(store_path, store_copy):
    assert kmod.load_store(store_path).manifest.custom_layers == ("pets>Gain",)
    assert kmod.load_store(store_copy).manifest.custom_layers == ()
    assert "custom_layers" not in (store_copy / "store.yaml").read_text()


def test_nothing_is_loaded_without_the_users_word(store_path):
    message = r"Received: pets>Gain \(kmod_test_layers.Gain\).*`custom_layers`"
    with pytest.raises(ArtifactError, match=message):
        kmod.load_store(store_path)["cat"]


def test_served_without_the_class(modular, store_path, images):
    module = tf.saved_model.load(str(store_path / "dog"))
    served = module.serve(images)
    expected = 1 / (1 + np.exp(-modular.class_log_odds(images)[:, 1]))
    np.testing.assert_allclose(served["score"][:, 0], expected, atol=1e-5)


def test_composed_model_needs_the_word_too(
    modular, composed_path, gain, images
):
    with pytest.raises(ArtifactError, match="pets>Gain"):
        kmod.load(composed_path)
    model = kmod.load(composed_path, custom_layers=[gain])
    scores = modular.class_log_odds(images)
    expected = keras.ops.softmax(scores)
    np.testing.assert_allclose(model(images), expected, atol=1e-5)
    assert np.ptp(expected[:, 0]) > 1e-3


def test_command_imports_the_module_that_is_named(
    store_path, composed_path, capsys
):
    for path in (store_path, composed_path):
        assert main(["test", str(path)]) == 3
        assert "`--custom-layers`" in capsys.readouterr().err
        option = ["--custom-layers", "kmod_test_layers"]
        assert main(["test", str(path), *option]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kmod_test_no_module", "can be imported.*kmod_test_no_module"),
        ("json", "with layers that are registered.*'json', which has none"),
    ],
)
def test_module_without_layers(store_path, name, message):
    with custom_layers_scope([name]), pytest.raises(UsageError, match=message):
        kmod.load_store(store_path)["cat"]


def test_layer_that_is_not_registered(store_path):
    class Other(layers.Layer):
        pass

    store = kmod.load_store(store_path, custom_layers=[Other])
    with pytest.raises(UsageError, match="'Other', which is no registered"):
        store["cat"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"class_name": "__lambda__"}, id="meaning-for-keras"),
        pytest.param({"registered_name": "pets>Other"}, id="other-layer"),
    ],
)
def test_named_layer_lets_nothing_else_in(store_path, tmp_path, gain, changes):
    whole = store_path / "cat/assets.extra/module.keras"
    path = tmp_path / "module.keras"
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(path, "w") as write:
        for name in read.namelist():
            data = read.read(name)
            if name == "config.json":
                config = json.loads(data)
                (own,) = (
                    layer
                    for layer in config["config"]["layers"]
                    if layer["class_name"] == "Gain"
                )
                own.update(changes)
                data = json.dumps(config)
            write.writestr(name, data)
    with custom_layers_scope([gain]):
        assert load_keras_file(whole)
        with pytest.raises(ArtifactError, match="of registered layers that"):
            load_keras_file(path)


def test_file_of_a_user_names_the_layer_that_is_missing(
    modular, tmp_path, gain
):
    path = tmp_path / "m.keras"
    modular.flat_source.save(path)
    known = keras.saving.get_custom_objects()
    del known["pets>Gain"]
    try:
        message = r"pets>Gain \(kmod_test_layers.Gain\).*--custom-layers MODULE"
        with pytest.raises(ArtifactError, match=message):
            load_keras_file(path, allow_custom=True)
    finally:
        known["pets>Gain"] = gain
