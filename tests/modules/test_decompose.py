import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.modular.modular_model import ModularModel
from kmod.modular.recipe import DEFAULT
from kmod.modules import decompose as station
from kmod.modules.decompose import decompose
from kmod.modules.module_store import load_store

WITHOUT_KMOD = """
import json, sys
sys.path = [p for p in sys.path if p]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "kmod":
            raise ImportError("no kmod here")
sys.meta_path.insert(0, Refuse())
import keras, numpy as np, tensorflow as tf
images = np.load(sys.argv[2])
archive = keras.models.load_model(
    sys.argv[1] + "/assets.extra/module.keras", safe_mode=True
)
served = tf.saved_model.load(sys.argv[1])
answer = served.signatures["serving_default"](tf.constant(images))
print(json.dumps({
    "archive": archive.predict(images, verbose=0)[:, 0].tolist(),
    "served": next(iter(answer.values())).numpy()[:, 0].tolist(),
}))
"""


def modular_model(**kwargs):
    keras.utils.set_random_seed(1)
    image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(6, 3, name="conv_1")(image)
    x = keras.layers.BatchNormalization(name="bn_1")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(5, activation="relu", name="hidden")(x)
    source = keras.Model(image, keras.layers.Dense(2, name="logits")(x))
    modular = ModularModel(source, ["a/b", "c"], **kwargs)
    modular.kernel_masks = [
        [1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1],
        [0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0],
    ]
    return modular


@pytest.fixture(scope="module")
def data():
    """Images labelled as the source model answers, which so knows them."""
    draw = np.random.default_rng(0)
    images = draw.normal(size=(40, 6, 6, 1)).astype("float32")
    logits = modular_model().flat_source.predict(images, verbose=0)
    return images, logits.argmax(axis=1)


def test_modules_answer_as_the_masked_model(tmp_path, data):
    modular = modular_model()
    modular.set_calibration([2, 0.5], [0.1, -0.3])
    store = decompose(modular, tmp_path / "store", data=data)
    scores = modular.class_scores(data[0])
    for index, name in enumerate(modular.class_names):
        answers = store[name].model.predict(data[0], verbose=0)
        np.testing.assert_allclose(answers[:, 0], scores[:, index], atol=1e-5)
        assert store.info(name).max_output_gap < 1e-4
    assert store.info("c").kept_kernels == {"conv_1": (1, 2), "hidden": (1, 2)}
    assert store.info("c").retention_rate == pytest.approx(4 / 11)
    assert set(store.manifest.metrics["after"]) == {
        "accuracy",
        "retention_rate",
    }


@pytest.mark.long
def test_store_works_without_kmod_where_it_was_moved(tmp_path, data):
    modular = modular_model()
    decompose(modular, tmp_path / "store", value_range=(-3, 3))
    moved = tmp_path / "elsewhere"
    (tmp_path / "store").rename(moved)
    directory = moved / load_store(moved).manifest.modules[0].directory
    np.save(tmp_path / "images.npy", data[0])
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_KMOD, directory, "images.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = json.loads(run.stdout.splitlines()[-1])
    expected = modular.class_scores(data[0], [0])[:, 0]
    np.testing.assert_allclose(answers["archive"], expected, atol=1e-5)
    np.testing.assert_allclose(answers["served"], expected, atol=1e-5)


def test_module_that_differs_is_not_saved(tmp_path, data, monkeypatch):
    cut = station.cut_module

    def spoilt(modular, index):
        module = cut(modular, index)
        layer = module.get_layer("conv_1")
        layer.set_weights([1.1 * weight for weight in layer.get_weights()])
        return module

    monkeypatch.setattr(station, "cut_module", spoilt)
    with pytest.raises(CheckError, match="must answer as the masked model"):
        decompose(modular_model(), tmp_path / "store", data=data)
    assert list(tmp_path.iterdir()) == []


def test_mixed_precision_is_cut_in_float32(tmp_path, data):
    recipe = dataclasses.replace(DEFAULT, scale_and_shift=False)
    modular = modular_model(dtype="mixed_bfloat16", recipe=recipe)
    store = decompose(modular, tmp_path / "store", data=data)
    assert store.info("c").max_output_gap < 1e-4
    assert store["c"].model.get_layer("conv_1").dtype == "float32"


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        pytest.param(None, None, None, id="read-off"),
        pytest.param((-5, 5), None, (-5, 5), id="of-the-modular-model"),
        pytest.param((-5, 5), (-4, 6), (-4, 6), id="argument"),
    ],
)
def test_value_range_is_recorded(tmp_path, data, declared, given, expected):
    modular = modular_model(value_range=declared)
    path = tmp_path / "store"
    store = decompose(modular, path, data=data, value_range=given)
    expected = expected or (data[0].min(), data[0].max())
    assert store.manifest.input.range == pytest.approx(expected)
    assert load_store(path).manifest.input.range == store.manifest.input.range


def test_bytes_are_from_0_to_255(tmp_path):
    images = np.arange(40 * 36).reshape(40, 6, 6, 1).astype("uint8")
    logits = modular_model().flat_source.predict(images, verbose=0)
    data = images, logits.argmax(axis=1)
    store = decompose(modular_model(), tmp_path / "store", data=data)
    assert store.manifest.input.range == (0, 255)


def test_declared_range_that_data_contradict_is_refused(tmp_path, data):
    message = r"Received: value_range=\(0, 255\) and float32 images"
    with pytest.raises(UsageError, match=message):
        decompose(
            modular_model(), tmp_path / "s", data=data, value_range=(0, 255)
        )
    modular = modular_model(value_range=(0, 255))
    with pytest.raises(UsageError, match=message):
        decompose(modular, tmp_path / "s", data=data)
    assert list(tmp_path.iterdir()) == []


def test_value_range_must_be_known(tmp_path):
    with pytest.raises(UsageError, match="neither `value_range` nor `data`"):
        decompose(modular_model(), tmp_path / "store")
    modular = modular_model(value_range=(0, 1))
    store = decompose(modular, tmp_path / "store")
    assert store.manifest.input.range == (0, 1)


def test_source_at_chance_level_is_not_cut(tmp_path, data, monkeypatch):
    images, labels = data
    cut = []
    monkeypatch.setattr(station, "cut_module", lambda *_: cut.append(1))
    for wrong in (1 - labels, np.roll(labels, 1)):
        with pytest.raises(
            ArtifactError, match="better than guesses .* mean recall of"
        ):
            decompose(modular_model(), tmp_path / "s", data=(images, wrong))
    assert cut == []
    assert list(tmp_path.iterdir()) == []


def test_class_without_images_has_no_figures(tmp_path, data):
    images, labels = data
    shown = images[labels == 0], labels[labels == 0]
    with pytest.warns(UserWarning, match=r"no image of \['c'\]"):
        store = decompose(modular_model(), tmp_path / "store", data=shown)
    assert store.info("c").metrics == {}
    assert set(store.info("a/b").metrics) == {"precision", "recall", "f1"}


@pytest.mark.parametrize("labels", [lambda y: y + 1, lambda y: np.eye(3)[y]])
def test_labels_of_other_classes_are_refused(tmp_path, data, labels):
    with pytest.raises(ValueError, match="2 classes"):
        decompose(
            modular_model(), tmp_path / "store", data=(data[0], labels(data[1]))
        )
    assert not (tmp_path / "store").exists()


def test_model_that_is_not_calibrated_is_calibrated_on_the_data(tmp_path, data):
    modular, expected = modular_model(), modular_model()
    assert not modular.is_calibrated
    store = decompose(modular, tmp_path / "store", data=data)
    expected.calibrate(*data)
    np.testing.assert_array_equal(modular.calibration, expected.calibration)
    counts = np.bincount(data[1])
    for index, name in enumerate(modular.class_names):
        scale, shift = np.array(expected.calibration)[index].tolist()
        assert store.info(name).calibration == {
            "scale": scale,
            "shift": shift,
            "num_images": 40,
            "num_class_images": counts[index],
        }
        images = load_store(store.path).calibration_images(name)
        assert images.share == counts[index] / 40


def test_calibration_stays(tmp_path, data):
    modular = modular_model()
    modular.set_calibration([2, 0.5], [0.125, -0.25])
    store = decompose(modular, tmp_path / "store", data=data)
    assert store.info("c").calibration == {"scale": 0.5, "shift": -0.25}
    assert store.calibration_images("c") is None
    modular.calibrate(data[0][:10], data[1][:10])
    store = decompose(modular, tmp_path / "other", data=data)
    assert store.info("c").calibration["num_images"] == 10


def test_scores_that_tell_nothing_rest_on_nothing(tmp_path, data):
    modular = modular_model()
    modular.set_calibration([2, 1], 0, [40, 0])
    store = decompose(modular, tmp_path / "store", data=data)
    assert store.info("c").calibration["num_class_images"] == 0
    assert store.calibration_images("c") is None
